"""ResNet-50, the backbone of CARL and of the paper's Table 5.

    images (F, 3, H, W) -> patches (F, P, 2048), no CLS token

The cells of its last feature map are the patches: 7 x 7 in pictures of 224.
"""
from einops import rearrange
from torch import nn

from model import Backbone, Features


class ResNet50(nn.Sequential):
    """torchvision's ResNet-50 (He et al., CVPR 2016) without its last pooling and classifier."""
    width = 2048
    channels = 2048
    patch_size = 32
    image_size = 224

    def __init__(self, layers=None):
        from torchvision.models import resnet50           # late: slow to import
        super().__init__()
        for name, part in list(resnet50().named_children())[:-2]:     # no pooling, no classifier
            self.add_module(name, part)

    @property
    def grid(self):
        return -(-self.image_size // self.patch_size)     # its padding rounds up

    def forward(self, images):
        x = super().forward(images)                       # (F, 2048, rows, columns)
        patches = rearrange(x, 'f c rows columns -> f (rows columns) c')
        return Features(patches, None)


RESNET50 = {
    'resnet50': Backbone(
        ResNet50, layers=1, image_size=224, patch_size=32, weights=None, cls=False,
        where="give a file of torchvision's or BYOL's by --weights FILE"),
}
