"""The mathematics: pure functions of tensors; no class to configure, no input or output.

Shapes: B responses (rows), T response columns (prompt tokens are never in T). ``mask[B, T]`` is
True where the policy produced the token; cells outside it are never read and may hold NaN. Scalars
of a response are ``[B]``, and ``group[B]`` says which prompt a row answers. float64 stays float64,
half precision is widened to float32 before anything is summed.
"""
