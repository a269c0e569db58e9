"""Run folders as one self-contained page of figures and tables."""
