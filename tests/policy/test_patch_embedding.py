"""A patch embedding computed as a matrix product is the convolution."""

import torch
from torch import nn

from specs_lightning.policy.patch_embedding import use_linear_patch_embedding


def embeddings(bias: bool) -> tuple[nn.Conv3d, nn.Conv3d]:
    torch.manual_seed(0)
    plain = nn.Conv3d(3, 16, (2, 7, 7), stride=(2, 7, 7), bias=bias)
    linear = nn.Conv3d(3, 16, (2, 7, 7), stride=(2, 7, 7), bias=bias)
    linear.load_state_dict(plain.state_dict())
    use_linear_patch_embedding(nn.Sequential(linear))
    return plain, linear


def test_outputs_and_gradients_are_the_convolutions() -> None:
    for bias in (False, True):
        plain, linear = embeddings(bias)
        patches = torch.randn(10, 3, 2, 7, 7)
        torch.testing.assert_close(linear(patches), plain(patches))
        for embedding in (plain, linear):
            embedding(patches).square().sum().backward()
        for measured, expected in zip(linear.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(measured.grad, expected.grad)


def test_images_that_are_not_cut_yet_are_convolved() -> None:
    plain, linear = embeddings(bias=True)
    images = torch.randn(2, 3, 4, 21, 14)
    assert torch.equal(linear(images), plain(images))


def test_convolutions_that_overlap_are_left_alone() -> None:
    overlapping = nn.Conv3d(3, 16, (2, 7, 7), stride=(1, 7, 7))
    use_linear_patch_embedding(nn.Sequential(overlapping))
    assert "forward" not in vars(overlapping)
