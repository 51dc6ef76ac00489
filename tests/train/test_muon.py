"""Muon: steps of the same length in all directions, Adam's where there is no matrix, resumable."""

import copy

import pytest

pytest.importorskip("torch")

import torch

from srgan_edge.train.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(2, 8, 27), (3, 27, 8), (1, 6, 6)])
def test_orthogonalised_matrices_have_singular_values_about_one(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.logspace(0, -1.5, left.shape[2])
    found = torch.linalg.svdvals(orthogonalised(left * values @ right))
    assert found.min() > 0.5 and found.max() < 1.3


def test_a_kernels_step_is_as_long_as_adams_whatever_its_gradient():
    for factor in (1e-6, 1.0, 1e6):
        kernel = torch.nn.Parameter(torch.zeros(8, 3, 3, 3))
        muon = Muon([kernel], lr=0.1, betas=(0.9, 0.99))
        torch.manual_seed(1)
        kernel.grad = factor * torch.randn_like(kernel)
        muon.step()
        assert 0.014 < kernel.detach().square().mean().sqrt() < 0.026  # 0.2 of the rate


def test_biases_and_slopes_move_as_with_adam():
    bias, like = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    muon = Muon([bias], lr=1.0, betas=(0.9, 0.99))
    adam = torch.optim.Adam([like], lr=0.1, betas=(0.9, 0.99))
    torch.manual_seed(2)
    for _ in range(5):
        bias.grad = torch.randn(5)
        like.grad = bias.grad.clone()
        muon.step()
        adam.step()
    assert torch.allclose(bias, like, atol=1e-6)


def test_it_resumes_from_its_state_bit_for_bit():
    torch.manual_seed(4)
    one = torch.nn.Conv2d(3, 4, 3)
    gradients = [[torch.randn_like(p) for p in one.parameters()] for _ in range(4)]

    def steps(network, muon, given):
        for gradient in given:
            for parameter, value in zip(network.parameters(), gradient, strict=True):
                parameter.grad = value.clone()
            muon.step()

    first = Muon(one.parameters(), lr=0.01, betas=(0.9, 0.99))
    steps(one, first, gradients[:2])
    other = copy.deepcopy(one)
    second = Muon(other.parameters(), lr=0.01, betas=(0.9, 0.99))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(one, first, gradients[2:])
    steps(other, second, gradients[2:])
    assert all(
        torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True)
    )
