"""What no test without a GPU can show; a run without one prints it, as a reason for skipping."""

# Functions of triton/device.py that switch to inline assembly, each beside a twin in plain `tl`.
ASSEMBLY = {
    "reciprocal": "rcp.approx.ftz.f32, its twin is 1 / x",
    "exp2": "ex2.approx.ftz.f32, its twin is tl.exp2",
    "tanh": "tanh.approx.f32, its twin is exact, so the error of precision='fast' is not seen",
    "anew": "mov.b32, its twin is the variable itself",
    "only_seen": "mov.b32, its twin is the variable itself",
}
REST = ("bfloat16 inputs of the Triton kernels", "every matter of timing on a GPU")
UNPROVEN = "not proven without a GPU: " + "; ".join(
    [*(f"{name} ({what})" for name, what in ASSEMBLY.items()), *REST]
)
