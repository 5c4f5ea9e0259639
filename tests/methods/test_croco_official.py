"""The published layout, both ways."""

from __future__ import annotations

import pytest
import torch

from sightline.methods.contract import BuildContext
from sightline.methods.croco import method
from sightline.methods.croco.config import CrocoConfig
from sightline.methods.croco.official import from_official, kwargs_from_text, settings_from_official, to_official
from sightline.methods.croco.pretext import CrocoPretext
from sightline.methods.errors import SightlineError

BASE = {"dec_embed_dim": 768, "dec_depth": 12, "dec_num_heads": 12, "pos_embed": "RoPE100"}
LARGE = {"enc_embed_dim": 1024, "enc_depth": 24, "enc_num_heads": 16}
PUBLISHED = {
    "CroCo.pth": (None, 349, 120_076_288, 85_646_592),
    "CroCo_V2_ViTBase_SmallDecoder.pth": ({"pos_embed": "RoPE100"}, 347, 120_076_288, 85_646_592),
    "CroCo_V2_ViTBase_BaseDecoder.pth": (BASE, 443, 200_269_824, 85_646_592),
    "CroCo_V2_ViTLarge_BaseDecoder.pth": (BASE | LARGE, 587, 417_918_720, 303_098_880),
}
TINY = {
    "patch_size": 8,
    "encoder_dim": 16,
    "encoder_depth": 1,
    "encoder_heads": 2,
    "decoder_dim": 8,
    "decoder_depth": 1,
    "decoder_heads": 2,
}


def tiny(**model: object) -> CrocoConfig:
    return CrocoConfig.model_validate({"model": {**TINY, "image_size": 32, **model}})


def built(config: CrocoConfig, seed: int = 0) -> CrocoPretext:
    return method.build(config, BuildContext(seed=seed))


@pytest.mark.parametrize("file", PUBLISHED)
def test_the_published_networks_have_their_tensors_and_parameters(file: str) -> None:
    kwargs, tensors, parameters, encoder = PUBLISHED[file]
    with torch.device("meta"):
        pretext = CrocoPretext(CrocoConfig(**settings_from_official(kwargs)))
    assert len(pretext.state_dict()) == tensors
    assert sum(p.numel() for p in pretext.parameters()) == parameters
    assert sum(p.numel() for p in pretext.backbone.parameters()) == encoder


@pytest.mark.parametrize("model", [{}, {"position": "rope", "image_size": [16, 40]}, {"norm_memory": False, "mlp_ratio": 2}])
def test_there_and_back_again(model: dict[str, object]) -> None:
    config = tiny(**model)
    pretext, fresh = built(config), built(config, 1)
    tensors, kwargs = to_official(pretext.state_dict(), config)
    assert CrocoConfig(**settings_from_official(kwargs)) == config
    assert {"mask_token", "enc_blocks.0.attn.qkv.weight", "dec_blocks.0.cross_attn.projq.bias", "prediction_head.bias"} <= tensors.keys()
    state, match = from_official(tensors, fresh.state_dict(), config)
    fresh.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(pretext.state_dict().values(), fresh.state_dict().values(), strict=True))
    assert len(match.matched) == len(tensors) and not match.missing and not match.unexpected and not match.resized


def test_tables_of_another_grid_are_resized_and_what_found_no_place_is_said() -> None:
    tensors, _ = to_official(built(tiny()).state_dict(), tiny())
    del tensors["mask_token"]
    wide = tiny(image_size=[24, 48])
    state, match = from_official(tensors | {"head.weight": torch.zeros(1)}, built(wide).state_dict(), wide)
    assert state["backbone.enc_pos_embed"].shape == (18, 16) and state["decoder.dec_pos_embed"].shape == (18, 8)
    assert (match.missing, match.unexpected, match.resized) == (("mask_token",), ("head.weight",), ("dec_pos_embed", "enc_pos_embed"))


def test_settings_are_read_from_the_trainer_s_text_without_evaluating_it() -> None:
    text = "CroCoNet(enc_embed_dim=1024, enc_depth=24, enc_num_heads=16, pos_embed='RoPE100', img_size=(224, 448), norm_im2_in_dec=False)"
    settings = settings_from_official(kwargs_from_text(text))
    assert settings["model"] == {
        "encoder_dim": 1024,
        "encoder_depth": 24,
        "encoder_heads": 16,
        "position": "rope",
        "rope_base": 100.0,
        "image_size": (224, 448),
        "norm_memory": False,
    }
    for bad in (
        "__import__('os').system('true')",
        "CroCoNet(**{})",
        "CroCoNet(enc_depth=1+x)",
        "CroCoNet(",
        "CroCoNet(norm_layer=print('x'))",
    ):
        with pytest.raises(SightlineError, match="cannot read the settings"):
            kwargs_from_text(bad)


def test_what_cannot_be_is_named() -> None:
    config = tiny()
    tensors, _ = to_official(built(config).state_dict(), config)
    here = built(config).state_dict()
    with pytest.raises(SightlineError, match=r"none of the .* has a CroCo name; the first is 'module"):
        from_official({f"module.{n}": t for n, t in tensors.items()}, here, config)
    with pytest.raises(SightlineError, match="mask_token has shape"):
        from_official(tensors | {"mask_token": torch.zeros(1, 1, 9)}, here, config)
    with pytest.raises(SightlineError, match="square"):
        from_official(tensors | {"enc_pos_embed": torch.zeros(15, 16)}, here, config)
    with pytest.raises(SightlineError, match="pos_embed = 'learned'"):
        settings_from_official({"pos_embed": "learned"})
    with pytest.raises(SightlineError, match="unknown CroCo setting 'depth'"):
        settings_from_official({"depth": 12})
    with pytest.raises(SightlineError, match="rope_f0"):
        odd = tiny(position="rope", rope_f0=0.5)
        to_official(built(odd).state_dict(), odd)
