"""Recipes for `hf-ats train --recipe NAME`, packaged as hf_ats.recipes."""
