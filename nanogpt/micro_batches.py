"""The size of a micro-batch: on a CPU, one whose activations stay near the caches."""


def micro_batch_rows(batch_size: int, block_size: int, device: str, tokens: int) -> int:
    """Rows of a micro-batch on a CPU: the largest divisor of the batch with at most `tokens` tokens, or 1.

    On any other device a micro-batch is the whole batch.
    """
    if device != "cpu":
        return batch_size
    most = max(1, tokens // block_size)
    return max(rows for rows in range(1, min(batch_size, most) + 1) if batch_size % rows == 0)
