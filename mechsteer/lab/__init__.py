"""The steering lab: a local page to see steering happen (`mechsteer lab`; the extra `lab`, Gradio).

`workbench` holds the model, its concepts and their vectors; a file per tab asks the library and shows what it gives;
`page` puts the tabs together, `command` reads the words of the command line and serves them on this machine alone.
Gradio's telemetry is off, and a policy of the page forbids everything that is not of this machine.
"""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported, which the modules of this room do
