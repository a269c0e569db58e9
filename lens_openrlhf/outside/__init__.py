"""The estimators for rollouts and trainers that are not OpenRLHF's: the command `advantages`, TRL, verl and slime.

Each framework has a module of its own name here, which alone imports it.
"""
