"""The templates of the model cards, packaged as hf_ats.model_cards."""
