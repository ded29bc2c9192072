from itertools import islice

import torch

from mechsteer.features.shuffling import shuffled


def served(chunk_rows, n_batches, buffer_size=40, n=105, batch_size=10, seed=0):
    data = torch.arange(float(n))[:, None]
    generator = torch.Generator().manual_seed(seed)
    stream = shuffled(
        lambda: data.split(chunk_rows), d_in=1, batch_size=batch_size, buffer_size=buffer_size, generator=generator
    )
    return torch.cat(list(islice(stream, n_batches))).flatten().long()


def test_every_row_comes_once_per_pass():
    for chunk_rows in (7, 105):
        for buffer_size in (20, 40, 1000):
            rows = served(chunk_rows, 21, buffer_size)  # 210 rows: two passes
            counts = rows.bincount(minlength=105)
            assert counts.tolist() == [2] * 105


def test_order_is_mixed_and_seeded():
    assert torch.equal(served(7, 10), served(7, 10))
    assert not torch.equal(served(7, 10), served(7, 10, seed=1))
    assert not torch.equal(served(7, 10)[:20], torch.arange(20))
