"""HookedTransformer as its documentation has it: random parameters by its names, and its logits."""

import torch
from torch.nn.functional import gelu, silu

CONFIG = {
    "n_layers": 2, "d_model": 8, "d_head": 4, "n_heads": 2, "n_ctx": 16, "d_vocab": 30,
    "d_mlp": 12, "act_fn": "gelu_new", "normalization_type": "LN", "eps": 1e-5,
    "attn_scale": 2.0, "use_attn_scale": True, "positional_embedding_type": "standard",
    "attention_dir": "causal", "dtype": "torch.float32", "device": "cpu", "seed": None,
    "model_name": "custom", "d_vocab_out": 30,
}  # fmt: skip


KINDS = {
    "plain": {},
    "folded": {"normalization_type": "LNPre", "act_fn": "relu"},
    "attention alone": {"attn_only": True, "d_mlp": None, "act_fn": None},
    "no norms": {"normalization_type": None},
    "no norms, attention alone": {"normalization_type": None, "attn_only": True, "act_fn": None},
    "no norms, parallel": {"normalization_type": None, "parallel_attn_mlp": True},
    "llama": {
        "normalization_type": "RMS", "final_rms": True, "positional_embedding_type": "rotary",
        "rotary_dim": 4, "rotary_base": 100, "n_key_value_heads": 1, "gated_mlp": True,
        "act_fn": "silu",
    },
    "j": {
        "parallel_attn_mlp": True, "positional_embedding_type": "rotary", "rotary_dim": 2,
        "rotary_adjacent_pairs": True, "final_rms": True,
    },
    "neo": {
        "use_attn_scale": False, "use_local_attn": True, "window_size": 3,
        "attn_types": ["global", "local"],
    },
    "gemma": {
        "normalization_type": "RMS", "use_normalization_before_and_after": True,
        "attn_scores_soft_cap": 2.0, "output_logits_soft_cap": 1.5, "attn_scale": 1.7,
    },
    "queries": {"normalization_type": "RMSPre", "use_qk_norm": True},
    "by layer": {"scale_attn_by_inverse_layer_idx": True, "act_fn": "gelu"},
}  # fmt: skip


def configuration(kind):
    return CONFIG | KINDS[kind]


def random_parameters(config):
    """With masks as the library saves them among the parameters."""
    d, e, h, m = config["d_model"], config["d_head"], config["n_heads"], config["d_mlp"]
    g = config.get("n_key_value_heads") or h
    low = "_" if config.get("n_key_value_heads") else ""
    shapes = {"embed.W_E": (30, d), "unembed.W_U": (d, 30), "unembed.b_U": (30,)}
    if config["positional_embedding_type"] == "standard":
        shapes["pos_embed.W_pos"] = (16, d)
    norms = ["ln_final"]
    for i in range(config["n_layers"]):
        b, a = f"blocks.{i}", f"blocks.{i}.attn"
        names = ["ln1"] if config.get("attn_only") else ["ln1", "ln2"]
        after = config.get("use_normalization_before_and_after")
        norms += [f"{b}.{name}" for name in names + [f"{n}_post" for n in names if after]]
        shapes |= {
            f"{a}.W_Q": (h, d, e), f"{a}.{low}W_K": (g, d, e), f"{a}.{low}W_V": (g, d, e),
            f"{a}.W_O": (h, e, d), f"{a}.b_Q": (h, e), f"{a}.{low}b_K": (g, e),
            f"{a}.{low}b_V": (g, e), f"{a}.b_O": (d,),
        }  # fmt: skip
        if config.get("use_qk_norm"):
            shapes |= {f"{a}.q_norm.w": (e,), f"{a}.k_norm.w": (e,)}
        if not config.get("attn_only"):
            shapes |= {f"{b}.mlp.W_in": (d, m), f"{b}.mlp.b_in": (m,)}
            shapes |= {f"{b}.mlp.W_out": (m, d), f"{b}.mlp.b_out": (d,)}
            if config.get("gated_mlp"):
                shapes[f"{b}.mlp.W_gate"] = (d, m)
    kind = config["normalization_type"]
    for name in norms if kind in ("LN", "RMS") else ():
        shapes[f"{name}.w"] = (d,)
        rms = kind == "RMS" or (name == "ln_final" and config.get("final_rms"))
        shapes |= {} if rms else {f"{name}.b": (d,)}
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.6 * torch.randn(shape, generator=generator) + (name.endswith(".w"))
        for name, shape in shapes.items()
    }
    masks = {f"blocks.{i}.attn.mask": torch.ones(16, 16).tril().bool() for i in range(2)}
    return state | masks | {"blocks.0.attn.IGNORE": torch.tensor(-torch.inf)}


def logits(config, state, tokens):
    """One position after the other, in double precision."""
    p = {name: t.double() for name, t in state.items() if t.is_floating_point()}
    act = {
        "gelu": gelu, "gelu_new": lambda x: gelu(x, approximate="tanh"), "relu": torch.relu,
        "silu": silu, None: None,
    }[config["act_fn"]]  # fmt: skip

    def norm(x, name, rms=False):
        kind = config["normalization_type"]
        if kind is None:
            return x
        x = x if rms or kind.startswith("RMS") else x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + config["eps"]).sqrt()
        return x * p.get(f"{name}.w", 1.0) + p.get(f"{name}.b", 0.0)

    def head_norm(x, name):
        if not config.get("use_qk_norm"):
            return x
        return x / (x.pow(2).mean(-1, keepdim=True) + config["eps"]).sqrt() * p[f"{name}.w"]

    def rotate(x, position):
        if config["positional_embedding_type"] != "rotary":
            return x
        turned = config["rotary_dim"]
        half = turned // 2
        base = config.get("rotary_base", 10000)
        y = x.clone()
        for i in range(half):
            if config.get("rotary_adjacent_pairs"):
                a, b = 2 * i, 2 * i + 1
            else:
                a, b = i, i + half
            angle = torch.tensor(position / base ** (i / half), dtype=torch.float64)
            y[..., a] = x[..., a] * angle.cos() - x[..., b] * angle.sin()
            y[..., b] = x[..., b] * angle.cos() + x[..., a] * angle.sin()
        return y

    def attention(x, i):
        name, heads = f"blocks.{i}.attn", config["n_heads"]
        low = "_" if config.get("n_key_value_heads") else ""
        groups = config.get("n_key_value_heads") or heads
        scale = config["attn_scale"] if config["use_attn_scale"] else 1.0
        scale *= i + 1 if config.get("scale_attn_by_inverse_layer_idx") else 1
        local = config.get("use_local_attn") and config["attn_types"][i] == "local"
        window = config["window_size"] if local else 10**6
        cap = config.get("attn_scores_soft_cap", -1)
        y = torch.zeros_like(x) + p[f"{name}.b_O"]
        for h in range(heads):
            g = h * groups // heads
            q = head_norm(x @ p[f"{name}.W_Q"][h] + p[f"{name}.b_Q"][h], f"{name}.q_norm")
            k = x @ p[f"{name}.{low}W_K"][g] + p[f"{name}.{low}b_K"][g]
            k = head_norm(k, f"{name}.k_norm")
            v = x @ p[f"{name}.{low}W_V"][g] + p[f"{name}.{low}b_V"][g]
            for t in range(x.shape[1]):
                seen = [s for s in range(t + 1) if t - s < window]
                scores = torch.stack(
                    [(rotate(q[:, t], t) * rotate(k[:, s], s)).sum(-1) / scale for s in seen], -1
                )
                scores = cap * (scores / cap).tanh() if cap > 0 else scores
                mixed = (scores.softmax(-1).unsqueeze(-1) * v[:, seen]).sum(1)
                y[:, t] += mixed @ p[f"{name}.W_O"][h]
        return y

    def mlp(x, i):
        name = f"blocks.{i}.mlp"
        if config.get("gated_mlp"):
            units = act(x @ p[f"{name}.W_gate"]) * (x @ p[f"{name}.W_in"]) + p[f"{name}.b_in"]
        else:
            units = act(x @ p[f"{name}.W_in"] + p[f"{name}.b_in"])
        return units @ p[f"{name}.W_out"] + p[f"{name}.b_out"]

    def post(x, name):
        return norm(x, name) if config.get("use_normalization_before_and_after") else x

    x = p["embed.W_E"][tokens]
    if "pos_embed.W_pos" in p:
        x = x + p["pos_embed.W_pos"][: tokens.shape[1]]
    for i in range(config["n_layers"]):
        b = f"blocks.{i}"
        middle = x + post(attention(norm(x, f"{b}.ln1"), i), f"{b}.ln1_post")
        if config.get("attn_only"):
            x = middle
            continue
        read = x if config.get("parallel_attn_mlp") else middle
        x = middle + post(mlp(norm(read, f"{b}.ln2"), i), f"{b}.ln2_post")
    y = norm(x, "ln_final", config.get("final_rms", False)) @ p["unembed.W_U"] + p["unembed.b_U"]
    cap = config.get("output_logits_soft_cap", -1)
    return cap * (y / cap).tanh() if cap > 0 else y
