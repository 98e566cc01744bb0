import torch
from subquad_alibi.local_alibi import LocalAlibi, slopes

from subquad.conformance import conformance

test_local_alibi = conformance(LocalAlibi())
test_narrow = conformance(LocalAlibi(window=8, steepness=4.0))


def test_the_slopes_of_eight_heads_are_those_of_the_paper() -> None:
    assert torch.equal(slopes(8), torch.tensor([2.0**-i for i in range(1, 9)]).double())
