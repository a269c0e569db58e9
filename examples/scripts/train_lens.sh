#!/usr/bin/env bash
# Trains with LENS. All of these work, and options of OpenRLHF and LENS may follow:
#   deepspeed examples/scripts/train_lens.sh
#   bash examples/scripts/train_lens.sh --data.max_samples 64
#   PROFILE=tiny bash examples/scripts/train_lens.sh
#
# The deepspeed launcher runs this file with Python, a shell runs it with bash, so it is both: to Python the next two
# lines are a string; bash executes them and hands over to Python.
''':'
exec "${PYTHON:-python}" "$0" "$@"
'''
import os
import sys

from lens_openrlhf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "--profile", os.environ.get("PROFILE", "tiny"), *sys.argv[1:]]))
