"""open_clip without torchvision, of which there is no build for the tested torch: what open_clip takes from it stands below.

transformers is imported first: it would take a torchvision that it sees for the real one.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch
import transformers  # noqa: F401
from PIL import Image
from transformers import CLIPModel  # noqa: F401 - what transformers loads late must be loaded before the stand-in is there

_CUBIC = Image.Resampling.BICUBIC


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """By the width and then by the height, as Pillow before 13 does for all sizes."""
    return image.resize((width, image.height), _CUBIC).resize((width, height), _CUBIC)


class Resize:
    """torchvision's on pictures of Pillow: to a shape, or the shorter side to a length and the longer one cut."""

    def __init__(self, size, interpolation=None):
        self.size = size

    def __call__(self, image):
        if not isinstance(self.size, int):
            return resized(image, *self.size)
        short, long = sorted(image.size)
        longer = int(self.size * long / short)
        wide = image.width > image.height
        return resized(image, self.size if wide else longer, longer if wide else self.size)


class CenterCrop:
    def __init__(self, size):
        self.height, self.width = (size, size) if isinstance(size, int) else size

    def __call__(self, image):
        top, left = (round((a - b) / 2.0) for a, b in ((image.height, self.height), (image.width, self.width)))
        return image.crop((left, top, left + self.width, top + self.height))


class Compose:
    def __init__(self, steps):
        self.transforms = steps

    def __call__(self, image):
        for step in self.transforms:
            image = step(image)
        return image


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = (torch.tensor(a)[:, None, None] for a in (mean, std))

    def __call__(self, image):
        return (image - self.mean) / self.std


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class ToTensor:
    def __call__(self, image):
        return to_tensor(image)


class Absent:
    """What is imported and not used here."""

    def __init__(self, *arguments, **settings):
        raise NotImplementedError


def _modules() -> dict[str, types.ModuleType]:
    names = ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc")
    made = {f"torchvision{name}": types.ModuleType(f"torchvision{name}") for name in names}
    transforms, functional = made["torchvision.transforms"], made["torchvision.transforms.functional"]
    used = {c.__name__: c for c in (Resize, CenterCrop, Compose, Normalize, ToTensor)}
    unused = ("RandomResizedCrop", "ColorJitter", "Grayscale")
    mode = types.SimpleNamespace(BICUBIC="bicubic", BILINEAR="bilinear")
    vars(transforms).update(used, **dict.fromkeys(unused, Absent), InterpolationMode=mode, functional=functional)
    functional.to_tensor = to_tensor
    made["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (torch.nn.Module,), {})
    return made


def _load():
    stood_in = _modules()
    sys.modules.update(stood_in)
    try:
        import open_clip
    finally:
        for name in stood_in:
            del sys.modules[name]
    return open_clip


open_clip = _load()
FOLDER = Path(open_clip.__file__).parent  # with the vocabulary
tokenizer = open_clip.SimpleTokenizer()


def model(sizes: dict, seed: int) -> torch.nn.Module:
    """A random model of a model_cfg, in which no bias, norm or projection is zero."""
    torch.manual_seed(seed)
    vision, text = sizes["vision_cfg"], sizes["text_cfg"]
    made = open_clip.model.CLIP(sizes["embed_dim"], vision, text, quick_gelu=sizes.get("quick_gelu", False))
    with torch.no_grad():
        for name, p in made.named_parameters():
            noise = torch.randn(p.shape)
            norm = p.ndim == 1 and ".ln_" in f".{name}" and name.endswith("weight")
            if p.ndim:  # the logit scale stays
                noise = 3 * noise if name == "visual.conv1.weight" else noise  # so that pictures differ
                p.copy_(1 + 0.2 * noise if norm else noise * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.15))
    return made.eval()


def preparation(side: int, **settings):
    """The transform that open_clip makes for evaluation."""
    return open_clip.transform.image_transform(side, is_train=False, **settings)
