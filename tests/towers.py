"A tower for tests that compare runs: without BatchNorm, so that parts of a batch add up to the whole."

from torch import nn


class Plain(nn.Module):
    "Two convolutions and a mean."

    def __init__(self, sensor):
        super().__init__()
        self.body, self.dim = (
            nn.Sequential(
                nn.Conv2d(len(sensor.bands), 8, 8, 8),
                nn.GELU(),
                nn.Conv2d(8, 16, 3, 2),
                nn.GELU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            ),
            16,
        )

    def forward(self, x):
        return self.body(x)
