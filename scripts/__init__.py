"""The commands, packaged as hf_ats.scripts: each file is one, and `hf-ats` (in command/) is all of them."""
