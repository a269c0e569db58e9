"""Everything that touches OpenRLHF, Ray, DeepSpeed and vLLM. Nothing outside this folder does."""
