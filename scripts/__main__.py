"""The commands by one name: `python -m hf_ats.scripts COMMAND ...` is `hf-ats COMMAND ...`."""

from hf_ats_command import main

if __name__ == "__main__":
    main()
