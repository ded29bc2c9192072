"""`mechsteer mix`: the atoms of a steering file heard one by one, in a terminal and on a page.

`mixing` writes one prompt on as the model does, as it was trained, and with other gains; `mix_page` shows the three,
`terminal` draws bars while it runs, `command` reads the words of the command line.
"""

from mechsteer.equaliser.command import MixCommand, mix_command
from mechsteer.equaliser.mix_page import page
from mechsteer.equaliser.mixing import Mix, mix

__all__ = ["Mix", "MixCommand", "mix", "mix_command", "page"]
