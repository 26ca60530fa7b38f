"""Folders of pictures: turned by their EXIF, of more than 8 bits, of any size and ending."""
import numpy as np
import pytest
from PIL import Image

import data
from datasets.images import IMAGE_FILES, images_in
from miniatures import numbers, picture, write_images
from running.errors import UserError


def test_frames_in_natural_order_and_broken_ones_by_name(tmp_path):
    for i in range(12):    # frame10 after frame9
        Image.fromarray(picture(i)).save(tmp_path / f'frame{i + 1}.jpg')
    video = data.frame_folder('v', tmp_path)
    assert numbers(video.read(range(12))) == list(range(12))
    third = tmp_path / 'frame3.jpg'
    third.write_bytes(third.read_bytes()[:700])
    assert numbers(video.read([0, 1, 3])) == [0, 1, 3]
    with pytest.raises(UserError, match='frame3.jpg'):
        video.read([2])


def checkerboard(number):
    """A picture (32, 48, 3) that no turn and no mirror maps to itself."""
    blocks = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


# by EXIF orientation: the steps through rows and columns; from 5 on these change places, too
STEPS = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (-1, 1), 7: (-1, -1),
         8: (1, -1)}


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif'])
@pytest.mark.parametrize('orientation', STEPS)
def test_exif_orientation(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(2):
        Image.fromarray(checkerboard(i)).save(tmp_path / f'{i}{suffix}', exif=exif)
    down, across = STEPS[orientation]
    expected = checkerboard(1)[::down, ::across]
    if orientation > 4:
        expected = expected.transpose(1, 0, 2)
    frame = data.frame_folder('v', tmp_path).read([1])[0].permute(1, 2, 0).numpy()
    assert frame.shape == expected.shape
    # JPEG blurs colours: blocks are compared by their centres
    far = np.abs(frame.astype(int) - expected)[4::8, 4::8].max()
    assert far <= (40 if suffix == '.jpg' else 0)
    small = data.frame_folder('v', tmp_path, size=32).read([1])[0].permute(1, 2, 0).numpy()
    expected = np.array(Image.fromarray(expected).resize((32, 32), Image.BILINEAR))
    assert np.abs(small.astype(int) - expected).mean() < 12    # a wrong turn: 70


def write_deep(folder, values, suffix, kind=np.uint16):
    folder.mkdir()
    for i, image in enumerate(values):
        Image.fromarray(image.astype(kind)).save(folder / f'{i}{suffix}')
    return data.frame_folder('v', folder)


@pytest.mark.parametrize('bits, suffix', [(8, '.tif'), (10, '.png'), (14, '.tif'), (16, '.png')])
def test_deep_pictures(bits, suffix, tmp_path):
    ramp = np.linspace(0, 2 ** bits - 1, 40 * 30).reshape(30, 40).round()
    half = ramp // 2
    video = write_deep(tmp_path / 'v', [half, half, ramp, half], suffix)
    expected = np.round(np.stack([half, ramp]) * 255 / (2 ** bits - 1))
    for channel in video.read([1, 2]).numpy().transpose(1, 0, 2, 3):
        assert np.array_equal(channel, expected)
    assert np.array_equal(video.read([1])[0, 0], expected[0])    # scaled as among the others


def test_deep_pictures_of_other_kinds(tmp_path):
    ramp = np.arange(1200).reshape(30, 40) * 50
    video = write_deep(tmp_path / 'int', [ramp, ramp], '.tif', np.int32)
    expected = np.round(ramp * 255 / (2 ** 16 - 1))
    assert np.array_equal(video.read([0])[0, 2].numpy(), expected)
    (tmp_path / 'pgm').mkdir()
    content = b'P5 40 30 65535\n' + ramp.astype('>u2').tobytes()
    (tmp_path / 'pgm/0.pgm').write_bytes(content)
    read = data.frame_folder('v', tmp_path / 'pgm').read([0])
    assert np.array_equal(read[0, 1].numpy(), expected)
    video = write_deep(tmp_path / 'float', [ramp / 6e4], '.tif', np.float32)
    with pytest.raises(UserError, match='0.tif: .*floating-point'):
        video.read([0])


def test_folders_whose_sizes_change(tmp_path):
    for i, size in enumerate([(160, 96), (80, 48), (96, 160), (321, 100)]):
        Image.fromarray(picture(i, *size)).save(tmp_path / f'{i}.png')
    assert numbers(data.frame_folder('v', tmp_path, 64).read(range(4))) == list(range(4))
    for indices in ([0, 1, 2, 3], [3]):    # not squashed: all of the first one's size
        whole = data.frame_folder('v', tmp_path).read(indices)
        assert whole.shape[1:] == (3, 96, 160) and numbers(whole) == indices


@pytest.mark.parametrize('suffix', ['.TIFF', '.ppm', '.bmp', '.webp', '.tga', '.jp2'])
def test_image_endings(suffix, tmp_path):
    write_images(tmp_path, 12, suffix)
    assert suffix.lower() in IMAGE_FILES and len(images_in(tmp_path)) == 12
    assert numbers(data.frame_folder('v', tmp_path).read([11, 0])) == [11, 0]
