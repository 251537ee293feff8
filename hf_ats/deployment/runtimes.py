"""The runtimes that serve models, beside PyTorch: what each is called, and which packages it takes."""

import importlib
import importlib.metadata

RUNTIMES = {"ctranslate2": ("ctranslate2",), "onnxruntime": ("onnxruntime", "onnx", "onnxscript")}
"""By the name of a runtime, the packages that converting and running take; the first is the runtime itself."""

FORMATS = {"ctranslate2": "ctranslate2", "onnx": "onnxruntime"}
"""By the name of a format, the runtime that reads it."""

QUANTIZATIONS = ("float32", "int8")


def require_runtime(name: str) -> None:
    """Import what a runtime takes.

    Raises:
        ValueError: there is no such runtime, or a package is not installed.
    """
    if name not in RUNTIMES:
        raise ValueError(f"runtime {name!r} is not known; write one of {', '.join(map(repr, RUNTIMES))}.")
    for package in RUNTIMES[name]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"runtime {name!r} needs the package {package} ({error}); run pip install '.[deploy]', or leave "
                "the runtime out."
            ) from error


def runtime_version(name: str) -> str:
    """Return the name of a runtime and its version, such as `"ctranslate2 4.8.5"`."""
    package = RUNTIMES[name][0]
    return f"{package} {importlib.metadata.version(package)}"
