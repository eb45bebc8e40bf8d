"""Whilst as a package: one table of pinned requirements, from which the core and every extra take what they name.

    pip install -e .[dev]                                       # developers and CI, CPU
    pip install -e .[dev,gpu,vllm] --no-build-isolation         # a GPU machine; flash-attn builds against its torch

A version stands here once. `torch` resolves to the CPU or the CUDA build by the machine's package index.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

REQUIREMENTS = {
    "accelerate": "accelerate==1.15.0",
    "av": "av==18.1.0",
    "datasets": "datasets==5.2.0",
    "datatrove": "datatrove==0.10.1",
    "deepspeed": "deepspeed==0.19.8",
    "flash-attn": "flash-attn==2.8.3.post2",
    "httpx": "httpx==0.28.1",
    "huggingface-hub": "huggingface_hub==1.33.0",
    "ijson": "ijson==3.6.0",
    "jinja2": "Jinja2==3.1.6",
    "jsonschema": "jsonschema==4.26.0",
    "liger-kernel": "liger-kernel==0.8.5",
    "mypy": "mypy==2.4.1",
    "networkx": "networkx==3.6.1",
    "numpy": "numpy==2.4.6",
    "peft": "peft==0.21.2",
    "pillow": "pillow==13.0.0",
    "pyarrow": "pyarrow==26.0.1",
    "pytest": "pytest==9.2.0",
    "pytest-xdist": "pytest-xdist==3.8.0",
    "pyyaml": "PyYAML==6.0.3",
    "rich": "rich==15.0.0",
    "ruff": "ruff==0.17.6",
    "safetensors": "safetensors==0.8.0",
    "tenacity": "tenacity==9.2.1",
    "tensorboard": "tensorboard==2.21.0",
    "tokenizers": "tokenizers==0.23.3",
    "torch": "torch==2.13.0",
    # For GPU machines only. Beside a CPU build of torch this wheel fails to import, and transformers, which sees it as
    # installed, then fails too. Nothing here needs it: frames are read with PyAV and cut into patches by whilst.
    "torchvision": "torchvision==0.28.0",
    "transformers": "transformers==5.17.0",  # the newest that trl 1.16.0 and vllm 0.31.0 both take
    "trl": "trl==1.16.0",
    "typer": "typer==0.29.2",
    "types-jsonschema": "types-jsonschema==4.26.0.20261006",
    "types-pyyaml": "types-PyYAML==6.0.12.20261113",
    "vllm": "vllm==0.31.0",
    "wandb": "wandb==0.30.0",
}


def required(*names: str) -> list[str]:
    """The pinned requirements of these names; an unknown name is a KeyError at build time."""
    return [REQUIREMENTS[name] for name in names]


CORE = required(
    "accelerate",
    "av",
    "datasets",
    "deepspeed",
    "httpx",
    "huggingface-hub",
    "ijson",
    "jinja2",
    "jsonschema",
    "networkx",
    "numpy",
    "peft",
    "pillow",
    "pyarrow",
    "pyyaml",
    "rich",
    "safetensors",
    "tenacity",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
    "typer",
    "wandb",
)

EXTRAS = {
    "gpu": required("flash-attn", "liger-kernel", "torchvision"),
    "vllm": required("vllm"),
    "synth": required("datatrove"),  # its executors alone; the local runner needs nothing
    "eval": [],  # nothing yet beyond the core
    "tensorboard": required("tensorboard"),  # report_to: [tensorboard]
    "dev": required("datatrove", "mypy", "pytest", "pytest-xdist", "ruff", "types-jsonschema", "types-pyyaml"),
}


def version() -> str:
    """`__version__` of whilst/__init__.py, read as text: importing it would need what is being installed."""
    found = re.search(r'^__version__ = "([^"]+)"$', (HERE / "whilst" / "__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError('whilst/__init__.py has no line of the form __version__ = "..."')
    return found.group(1)


setup(
    name="whilst",
    version=version(),
    description="Post-training for streaming video LLMs that think whilst they watch",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=[
            f"{package}{inner}"
            for package in ("whilst", "data_pipeline", "train", "rewards", "evaluation", "slurm")
            for inner in ("", ".*")
        ]
    ),
    package_data={
        "whilst": ["view_page/*.css", "view_page/*.js", "serve_page/*.html", "serve_page/*.css", "serve_page/*.js"],
        "data_pipeline": ["text/prompts/*.jinja"],
        "evaluation": ["lmms_plugin/tasks/*/*.yaml"],
        "train": ["deepspeed/*.json"],
        "slurm": ["templates/*.jinja"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["whilst=whilst.cli:main"],
        "lmms_eval.models": ["whilst = evaluation.lmms_plugin:manifest"],
    },
)
