from setuptools import find_packages, setup

# What the code needs at least, so that the package goes into an image with its own jax; requirements.txt pins the tested set.
REQUIRES = [
    "jax>=0.10.0",  # jax.extend.core.jaxprs_in_params; jaxlib comes with it
    "flax>=0.12.6",  # the first that leaves numpy and optax free
    "optax>=0.2.8",  # its contrib sets a flag that jax 0.10 no longer has, before that
    "orbax-checkpoint>=0.11.33",
    "etils[epath]>=1.13",
    "transformers>=5.0",  # one CLIPTokenizer and one T5TokenizerFast, without torch
    "tokenizers>=0.22",
    "huggingface_hub>=1.0",  # transformers brings it; here it finds pipelines in its cache
    "safetensors>=0.6.2",
    "grain>=0.2.15",
    "ml_collections>=1.1",
    "clu>=0.0.12",
    "absl-py>=2.2",
    "ml_dtypes>=0.5.1",
    "numpy>=2.1",
    "scipy>=1.15",
    "pillow>=11.1",
    "matplotlib>=3.10",
    "tqdm>=4.67",
    "jinja2>=3.1.4",
    "openai>=3.0",  # the first on httpx2
    "rapidfuzz>=3.11",
    "httpx2>=2.7",
]
# TensorFlow has no wheel for Python 3.14, and its smaller package only those for Linux on x86-64.
TENSORBOARD = [
    'tensorflow-cpu>=2.21; python_version < "3.14" and sys_platform == "linux" and platform_machine == "x86_64"',
    'tensorflow>=2.21; python_version < "3.14" and (sys_platform != "linux" or platform_machine != "x86_64")',
    'tensorboard>=2.20; python_version < "3.14"',
]
# A server of judges (python -m mvgrpo_jax.rewards.serve); the last reads pictures that come as files of a form.
SERVE = ["starlette>=1.0", "uvicorn>=0.40", "python-multipart>=0.0.20"]
# The judge that reads words in pictures (rewards/examples/ocr.py). It has no wheel that says it fits Python 3.13.
OCR = ['rapidocr-onnxruntime==1.4.4; python_version < "3.13"']
# Prompts in tables as the Hub stores them (mvgrpo_jax/prompts/forms/parquet.py).
PARQUET = ["pyarrow>=18.0"]
# The pages of docs/ as a site (make docs).
DOCS = ["mkdocs==1.6.1", "mkdocs-material==9.8.2"]
# Trackers (mvgrpo_jax/run/trackers).
TRACKERS = {"wandb": ["wandb>=0.21"], "swanlab": ["swanlab>=0.10"], "mlflow": ["mlflow>=3.1"]}
# Compilers for TPU and CUDA, on Linux, without the libraries that running there needs. A plugin fits one jaxlib.
PLAN = [
    'jax==0.10.2; sys_platform == "linux"',
    'libtpu==0.0.52; sys_platform == "linux" and platform_machine == "x86_64"',
    'jax-cuda13-plugin==0.10.2; sys_platform == "linux"',
    'jax-cuda13-pjrt==0.10.2; sys_platform == "linux"',
]
TEST = [
    "torch==2.13.0",
    "diffusers==0.42.1",
    "pytest==9.2.0",
    "pytest-timeout==2.4.0",
    "pytest-xdist==3.8.0",
    "hypothesis==6.170.17",
    "packaging>=25.0",
    "ruff==0.17.6",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "trustme==1.2.1",
    "pyyaml==6.0.3",
    "kubernetes-validate==1.37.0",  # manifests of launch/; it has the schemas with it
    "jsonschema==4.26.0",
    # What `transformers serve` needs, and the reader of the small language model that the tests ask through it.
    "fastapi==0.165.0",
    "uvicorn==0.54.0",
    "rich==15.0.0",
    "gguf==0.19.0",
    "starlette==1.10.0",
    "python-multipart==0.0.34",
    # What rapidocr-onnxruntime needs, with an OpenCV that needs no screen; the Makefile adds it without its own list.
    'onnxruntime==1.32.0; python_version < "3.14"',
    "opencv-python-headless==5.0.0.93",
    "pyclipper==1.4.0",
    "shapely==2.2.0",
    "six==1.17.0",
    "pyarrow==26.0.1",
    "wandb==0.31.0",  # its files are read back; what reads SwanLab's and MLflow's runs where they are installed
    # What open_clip needs, the peer of judges of the CLIP family; the Makefile installs it without torchvision and timm.
    "ftfy==6.3.1",
    "regex==2026.11.19",
    "wcwidth==0.9.4",
    *PLAN,
    *TENSORBOARD,
]

setup(
    name="mvgrpo_jax",
    version="0.1.0",
    description="Multi-View GRPO and its family for flow models, in JAX",
    packages=find_packages(include=["mvgrpo_jax", "mvgrpo_jax.*"]),
    package_data={"mvgrpo_jax": ["nano/assets/**/*", "rewards/texts/*", "evaluation/assets/*"]},
    python_requires=">=3.11,<3.15",
    install_requires=REQUIRES,
    extras_require={
        "tensorboard": TENSORBOARD,
        "gcs": ["gcsfs>=2025.3"],  # workdirs in gs://; with Google's client, which orbax asks
        "tpu": ["jax[tpu]>=0.10.0"],
        "cuda": ["jax[cuda13]>=0.10.0"],
        "plan": PLAN,
        "serve": SERVE,
        "ocr": OCR,
        "geneval": ["torch>=2.6", "torchvision>=0.21"],  # the detector's, on the host
        "parquet": PARQUET,
        "docs": DOCS,
        **TRACKERS,
        "test": TEST,
    },
    entry_points={"console_scripts": ["mvgrpo = mvgrpo_jax.console.__main__:main"]},
)
