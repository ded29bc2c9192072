"""Sites: names on both classes, and every point is the Hugging Face activation that its name says."""

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import UnknownSiteError
from mechsteer.models import MAPS, POINTS, backend_of
from mechsteer.models.sites import list_sites

LAYER = 1
TOKENS = torch.tensor(toys.prompts(9, 9))
GATED = {
    **{"resid_pre": ("", "in"), "resid_post": ("", "out"), "attn_out": ("self_attn", "out"), "mlp_out": ("mlp", "out")},
    **{"resid_mid": ("post_attention_layernorm", "in"), "mlp_post": ("mlp.down_proj", "in")},
    **{"z": ("self_attn.o_proj", "in")},
    **{f"{m}_{end}": (f"self_attn.{m}_proj", end) for m in "qkvo" for end in ("in", "out")},
    **{f"{m}_{end}": (f"mlp.{m}_proj", end) for m in ("gate", "up", "down") for end in ("in", "out")},
}
MODULES = {  # point -> (module inside a block, its input or output): the oracle
    "llama": GATED,
    "qwen3": GATED,
    "gpt2": {
        **{"resid_pre": ("", "in"), "resid_post": ("", "out"), "attn_out": ("attn", "out"), "mlp_out": ("mlp", "out")},
        **{"resid_mid": ("ln_2", "in"), "mlp_post": ("mlp.c_proj", "in"), "z": ("attn.c_proj", "in")},
        **{f"{m}_in": ("attn.c_attn", "in") for m in "qkv"},
        **{"o_in": ("attn.c_proj", "in"), "o_out": ("attn.c_proj", "out")},
        **{"up_in": ("mlp.c_fc", "in"), "up_out": ("mlp.c_fc", "out")},
        **{"down_in": ("mlp.c_proj", "in"), "down_out": ("mlp.c_proj", "out")},
    },
    "neox": {
        **{"resid_pre": ("", "in"), "resid_post": ("", "out")},
        **{"attn_out": ("attention", "out"), "mlp_out": ("mlp", "out"), "mlp_post": ("mlp.dense_4h_to_h", "in")},
        **{"z": ("attention.dense", "in"), "o_in": ("attention.dense", "in"), "o_out": ("attention.dense", "out")},
        **{f"{m}_in": ("attention.query_key_value", "in") for m in "qkv"},
        **{"up_in": ("mlp.dense_h_to_4h", "in"), "up_out": ("mlp.dense_h_to_4h", "out")},
        **{"down_in": ("mlp.dense_4h_to_h", "in"), "down_out": ("mlp.dense_4h_to_h", "out")},
    },
}
FUSED = {"gpt2": "attn.c_attn", "neox": "attention.query_key_value"}  # q, k and v in one map


def hugging_face(family):
    """point -> activation [batch pos width], from plain forward hooks on a plain model."""
    hf = toys.hf_model(family)
    block, found = toys.blocks(hf)[LAYER], {}

    def keep(point, end, module):
        def hook(module, args, kwargs, output):
            value = (args[0] if args else kwargs["hidden_states"]) if end == "in" else output
            found[point] = value[0] if isinstance(value, tuple) else value

        module.register_forward_hook(hook, with_kwargs=True)

    for point, (path, end) in MODULES[family].items():
        keep(point, end, block.get_submodule(path) if path else block)
    if family in FUSED:
        keep("qkv", "out", block.get_submodule(FUSED[family]))
    hf(TOKENS)
    if "qkv" in found:
        fused = found.pop("qkv")
        if family == "gpt2":
            parts = fused.chunk(3, dim=-1)
        else:  # GPT-NeoX keeps q, k and v of a head side by side
            parts = [p.flatten(-2) for p in fused.unflatten(-1, (4, 3, 8)).unbind(-2)]
        found |= {f"{m}_out": p for m, p in zip("qkv", parts, strict=True)}
    return found | {m: found[f"{m}_out"] for m in "qkv"}  # as in TransformerLens: before rotation and any norm of heads


def read(model, points):
    """point -> activation read through the site, heads flattened, through `read_as`."""
    backend, found, removes = backend_of(model), {}, []
    for point in points:
        name, read_as = backend.names.hook_name(LAYER, point), backend.names.read_as(LAYER, point)

        def keep(acts, point=point, read_as=read_as):
            found[point] = (acts if read_as is None else read_as(acts)).clone()

        removes.append(backend.runner.attach(name, keep))
    with torch.no_grad():
        model(TOKENS)
    for remove in removes:
        remove()
    return {point: flat(acts) for point, acts in found.items()}


def flat(acts):
    return acts.flatten(2)


def points_of(model):
    return [site.point for site in list_sites(model) if site.layer == LAYER]


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_every_point_is_hugging_faces(family, kind):
    model, theirs = toys.shared(family, kind), hugging_face(family)
    points = points_of(model)
    ours = read(model, points)
    assert set(points) == set(theirs)
    for point in points:
        torch.testing.assert_close(ours[point], flat(theirs[point]), rtol=0, atol=1e-5 if kind == "bridge" else 5e-5)


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_every_point_exists_where_the_architecture_has_it(family, kind):
    gates = {"gate_in", "gate_out"} if family in ("gpt2", "neox") else set()
    parallel = {"resid_mid"} if family == "neox" else set()  # attention and MLP both read resid_pre
    assert set(POINTS) - set(points_of(toys.shared(family, kind))) == gates | parallel


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_maps_are_what_their_sites_say(family, kind):
    """y = W x + b between the two sites of every map, also where the norm's scale is folded into W."""
    model = toys.shared(family, kind)
    backend, acts = backend_of(model), read(model, points_of(model))
    n_checked = 0
    for name in MAPS:
        if f"{name}_out" not in acts:
            continue
        weight, bias = backend.weights.map_weight(LAYER, name), get_bias(backend, name)
        expected = acts[f"{name}_in"] @ weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(
            acts[f"{name}_out"], expected, rtol=1e-5, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
        n_checked += 1
    assert n_checked == (7 if family in ("llama", "qwen3") else 6)


def get_bias(backend, name):
    try:
        return backend.weights.get_bias(LAYER, name)
    except UnknownSiteError:  # HookedTransformer's gate has none
        return None


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_a_reading_map_reads_the_norm_times_its_scale(family, kind):
    """x_in = normalize(resid) · norm_scale (+ the norm's bias), from the weights alone."""
    model = toys.shared(family, kind)
    backend, acts = backend_of(model), read(model, points_of(model))
    for name, resid in (("q", "resid_pre"), ("up", "resid_pre" if family == "neox" else "resid_mid")):
        scale, found = backend.weights.norm_scale(LAYER, name), acts[f"{name}_in"]
        expected = backend.weights.normalize(acts[resid]) * (1 if scale is None else scale)
        offset = found - expected  # the bias of a LayerNorm, or nothing
        torch.testing.assert_close(offset, offset[:1, :1].expand_as(offset), rtol=0, atol=5e-5)
        assert (scale is None) == (kind == "compatibility")
        if family in ("llama", "qwen3"):
            assert offset.abs().max() < 5e-5


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_sites_are_ordered_as_they_fire(family, kind):
    model = toys.shared(family, kind)
    backend, fired, removes = backend_of(model), [], []
    for site in list_sites(model):
        removes.append(backend.runner.attach(site.resolve(model), lambda acts, site=site: fired.append(site)))
    with torch.no_grad():
        model(TOKENS)
    for remove in removes:
        remove()
    order = list(dict.fromkeys(fired))
    assert set(order) == set(list_sites(model)), "each fires"
    late = [(a, b) for i, a in enumerate(order) for b in order[:i] if a.order < b.order]
    # a is before b by rank, and yet b fires first: only among maps that take turns
    turns = ({"q", "k", "v"}, {"gate", "up"})
    for a, b in late:
        assert any({a.point.split("_")[0], b.point.split("_")[0]} <= maps for maps in turns), (a, b)


@pytest.mark.parametrize("kind", toys.KINDS)
def test_reading_a_map_whose_turn_comes_later_is_an_error(kind):
    model = toys.shared("llama", kind)
    adapter = Doubling()
    iv = ms.Intervention(adapter, ms.Site(1, "k_out"), read=ms.Site(1, "v_out"))
    with pytest.raises(UnknownSiteError, match=r"v_out@1 is reached after k_out@1"), ms.steer(model, iv):
        model(TOKENS)
    with torch.no_grad(), ms.steer(model, ms.Intervention(adapter, ms.Site(1, "v_out"), read=ms.Site(1, "k_out"))):
        model(TOKENS)
    assert toys.hooks_left(model) == 0


class Doubling(ms.adapters.Static):
    def __init__(self):
        super().__init__(torch.zeros(1))

    def delta(self, acts, state, coeff, ctx):
        return coeff * acts, None


def test_depth_ratios_are_floored():
    class Fake:
        class cfg:
            n_layers = 28

    assert ms.Site(0.15).at(Fake) == ms.Site(4)
    assert ms.Site(0.0).at(Fake) == ms.Site(0)
    assert ms.Site(0.999).at(Fake) == ms.Site(27)
    Fake.cfg.n_layers = 100
    for percent in range(100):
        assert ms.Site(percent / 100).at(Fake).layer == percent, "0.29 · 100 is 28.999..."


def test_errors_and_forms():
    model = toys.shared("llama")
    with pytest.raises(UnknownSiteError, match=r"(?s)no point 'resid_psot'.*resid_post"):
        ms.Site(0, "resid_psot")
    for ratio in (1.0, -0.1, float("nan")):
        with pytest.raises(UnknownSiteError, match="give an int for a layer index"):
            ms.Site(ratio)
    for layer in (3, -1):
        with pytest.raises(UnknownSiteError, match=f"no layer {layer} in a model with 3 layers"):
            ms.Site(layer).resolve(model)
    with pytest.raises(UnknownSiteError, match=r"(?s)no hook 'blocks.0.mlp.gate.hook_out'.*closest"):
        ms.Site(0, "gate_out").resolve(toys.shared("gpt2"))
    with pytest.raises(UnknownSiteError, match="gate_in cannot be written"):
        ms.Site(0, "gate_in").resolve(toys.shared("llama", "compatibility"), write=True)
    site = ms.Site(2, "mlp_out")
    assert site.resolve(model) == "blocks.2.hook_mlp_out"
    assert ms.Site.from_dict(site.to_dict()) == site
    assert {site: 1}[ms.Site(2, "mlp_out")] == 1
    assert str(site) == "mlp_out@2"


def test_errors_of_hooked_models():
    with pytest.raises(UnknownSiteError, match="gate"):
        ms.Site(0, "gate_out").resolve(toys.shared("gpt2", "hooked"))
    with pytest.raises(UnknownSiteError, match=r"(?s)q_in can be read but not written.*q_out"):
        ms.Site(0, "q_in").resolve(toys.shared("llama", "hooked"), write=True)
