"""Steering files travel: a folder with a model card and a script that needs no mechsteer, here or on the hub.

steering.safetensors   the file
README.md              the model card, made of what the file says
apply.py               applies the file with torch, transformers and safetensors alone
"""

from mechsteer.sharing.card import model_card
from mechsteer.sharing.travel import pull_steering, push_steering

__all__ = ["model_card", "pull_steering", "push_steering"]
