"""The main job, what `mechsteer study` runs: a chain of stages in one run folder, each also a command.

`graph` declares the stages (what each reads, which settings, what it writes), `folder` is the run folder, `run`
brings a stage up to date, `study` runs all and writes the report, `sweep` runs many; one file per group of stages.
"""
