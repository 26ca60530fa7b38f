"""One video as images, one a frame, each as a viewer shows it: uint8 (3, H, W).

Cameras and phones store a picture as the sensor saw it and say beside it (EXIF) how to turn it;
microscopes, X-ray and depth cameras store more than 8 bits a pixel. Pillow leaves both to its user.
"""
import os
import re
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import ContainerIO, Image, ImageOps

from datasets.layout import refused
from datasets.video import Video

IMAGE_FILES = {
    '.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.webp', '.avif', '.jp2', '.j2k', '.jpx',
    '.bmp', '.dib', '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm', '.tga', '.sgi', '.pcx', '.qoi'}
STACKS = {'.tif', '.tiff', '.png', '.webp', '.avif'}    # may hold a recording, a page a frame
DEEP = {'I;16', 'I;16L', 'I;16B', 'I;16N', 'I'}    # Pillow's modes of more than 8 bits a pixel


def read_images(files, indices, size=None):
    """Yield the images at `indices`: uint8 (3, H, W), squashed to size x size if given.

    files: a folder, or a list. A file is a path; or, within a file, (path, 'page', number) or
    (path, 'bytes', start, length).
    """
    files = images_in(files)
    shape = (size, size) if size else None
    bits = None
    for i in indices:
        image = open_image(files[i], size)
        if image.mode in DEEP:
            bits = bits or bits_used(files)
            scaled = np.array(image, np.float64) * 255 / (2 ** bits - 1)
            image = Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
        if image.mode != 'RGB':
            image = image.convert('RGB')
        shape = shape or open_image(files[0]).size    # frames of one video go into one tensor
        if image.size != shape:
            image = image.resize(shape, Image.BILINEAR)
        yield torch.from_numpy(np.array(image)).permute(2, 0, 1)


def open_image(file, size=None):
    """-> a Pillow image, turned as its EXIF orientation says. UserError: it cannot be read."""
    path, kind, *place = file if isinstance(file, tuple) else (file, '')
    name = ' '.join(map(str, [path, kind, *place])).strip()
    with refused(f'{name}: cannot be read as an image'):
        if kind == 'page':
            stack = open_stack(path, os.getpid())
            stack.seek(*place)
            image = stack.copy()
        else:
            with open(path, 'rb') as content:
                if kind == 'bytes':
                    content = ContainerIO.ContainerIO(content, *place)
                image = Image.open(content)
                if size:
                    image.draft('RGB', (size, size))    # decode a JPEG at a half, if enough
                image.load()
        if image.mode == 'F':
            raise ValueError('its pixels are floating-point numbers; save it with 8 or 16 bits')
        ImageOps.exif_transpose(image, in_place=True)
        return image


@lru_cache(maxsize=16)
def open_stack(path, _process):
    """A file of several images stays open, since a page may need those before."""
    return Image.open(path)


def bits_used(files):
    """How many bits of their deep pixels a series of images uses, at least 8: cameras of 10, 12 or
    14 bits leave the upper ones of 16 empty. Nine images decide, so that all are scaled alike."""
    spread = np.linspace(0, len(files) - 1, 9).round().astype(int)
    brightest = max(int(np.max(open_image(files[i]))) for i in set(spread.tolist()))
    return max(8, brightest.bit_length())


# --------------------------------------------------------------------------------------------------
# A folder of them

def natural(file):
    """A key for sorting by name: frame 2 before frame 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', file.name)]


def images_in(folder):
    """The image files of a folder in natural order; a list of them as it is."""
    if isinstance(folder, list):
        return folder
    with refused(f'{folder}: cannot be listed'):
        files = sorted(Path(folder).iterdir(), key=natural)
    return [file for file in files if file.suffix.lower() in IMAGE_FILES and file.name[0] != '.']


def count(files):
    return len(images_in(files))


def frame_folder(name, files, size=None, **known):
    """A Video of the images in a folder or a list; size: they are squashed to size x size."""
    return Video(name, partial(count, files), partial(read_images, files, size=size), **known)


def pages_of(path):
    """The frames in a picture file (ImageJ's TIFF stacks, animated PNG and WebP); [] if there is
    but one: a second page of another size is a thumbnail, or the same picture made smaller."""
    with suppress(Exception), Image.open(path) as image:    # what is broken is said when it is read
        size = image.size
        image.seek(1)
        if image.size == size:
            return [(path, 'page', i) for i in range(image.n_frames)]
    return []
