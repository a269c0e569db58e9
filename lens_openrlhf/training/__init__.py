"""The training run: all that subclasses OpenRLHF, and the way from a command line to it."""
