"""Methods that PEFT has, trained by its own layers: one file per method."""

from mechsteer.baselines.with_peft.boft import BOFT
from mechsteer.baselines.with_peft.delora import DELORA
from mechsteer.baselines.with_peft.dora import DORA
from mechsteer.baselines.with_peft.ia3 import IA3
from mechsteer.baselines.with_peft.kinds import Kind
from mechsteer.baselines.with_peft.library import require_peft
from mechsteer.baselines.with_peft.lora import LORA
from mechsteer.baselines.with_peft.newcomers import ETHER, SSVD, SVFT
from mechsteer.baselines.with_peft.oft import OFT
from mechsteer.baselines.with_peft.pissa import PISSA
from mechsteer.baselines.with_peft.road import ROAD
from mechsteer.baselines.with_peft.vera import VERA

KINDS = {kind.name: kind for kind in (LORA, DORA, PISSA, DELORA, IA3, ROAD, VERA, OFT, BOFT, ETHER, SVFT, SSVD)}

__all__ = ["KINDS", "Kind", "require_peft"]
