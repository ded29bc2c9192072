"""Steering files travel: a folder with a model card and a script that needs no mechsteer, here or on the hub.

steering.safetensors   the file
README.md              the model card, made of what the file says
apply.py               applies the file with torch, transformers and safetensors alone

`certify` asks of every engine that is here whether it gives the same tokens under a file.
"""

from mechsteer.sharing.card import model_card
from mechsteer.sharing.certifying import Certificate, certify
from mechsteer.sharing.travel import pull_steering, push_steering

__all__ = ["Certificate", "certify", "model_card", "pull_steering", "push_steering"]
