"""ResNet-50, the backbone of the paper's Table 5."""
from einops import rearrange
from torchvision.models.resnet import Bottleneck, ResNet

from backbones.dino import Features


class ResNet50(ResNet):
    """torchvision's ResNet-50 (He et al., 2016) up to its last feature map, whose 7 x 7 cells are the patches.

    Its BatchNorms stay in eval mode, also where layer4 is fine-tuned.
    """
    width = channels = 2048
    patch_size, grid = 32, 7

    def __init__(self):
        super().__init__(Bottleneck, [3, 4, 6, 3])
        del self.avgpool, self.fc

    def forward(self, images):
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return Features(rearrange(x, 'f c r k -> f (r k) c'), None)


from backbones.dino import Backbone
RESNET50 = {'resnet50': Backbone(lambda layers: ResNet50(), 1, 224, 32, None, 'give a file of them by --weights', cls=False)}
