"""The commands, packaged as hf_ats.scripts: each file is one, and `hf-ats` is all of them."""
