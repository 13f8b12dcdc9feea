"""Networks of users: tiny real ones of each package, written to disk and read back."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from ecomap.errors import RequestError
from ecomap.features import embed_texts, extract_features, open_space
from ecomap.tokenizer import build_clip_tokenizer
from ecomap.user_features import open_transformers, read_tensors
from tests.fakes import made_image

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SQUARE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([made_image(seed, 40, 48) for seed in range(3)])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    torch.manual_seed(1)
    tokenizer = build_clip_tokenizer()
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 77, "projection_dim": 12}
    special = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(
        text_config=SMALL | text | special,
        vision_config=SMALL | {"image_size": 32, "patch_size": 8, "projection_dim": 12},
        projection_dim=12,
    )
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_gives_its_image_embedding_of_the_image_as_its_own_processor_prepares_it(
    clip_folder, images
):
    space = open_space(f"transformers={clip_folder}")
    found = space.extract(images)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = CLIPImageProcessor.from_pretrained(clip_folder)(list(images), return_tensors="pt")
    with torch.inference_mode():
        expected = model.get_image_features(**pixels).pooler_output.numpy()
    assert found.features.dtype == np.float32
    assert found.features.shape == (3, 12) == (3, space.width)
    np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-5)
    assert found.probabilities is None
    assert not found.predictions
    assert "CLIPModel of tiny-clip: image embedding" in space.description
    assert str(clip_folder.parent) not in space.description


def test_clip_embeds_texts_in_the_space_of_images_and_cuts_what_it_cannot_read(clip_folder):
    spec = f"transformers={clip_folder}"
    texts = ["a satellite image of Savannas.", "a satellite image of Barren. " + "dry " * 200]
    found = embed_texts(spec, texts)
    assert found.shape == (2, 12)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert not np.allclose(found[0], found[1])
    longer = embed_texts(spec, [texts[1] + " and wet"])
    np.testing.assert_allclose(longer[0], found[1], rtol=1e-5)
    alone = embed_texts(spec, texts[:1])
    np.testing.assert_allclose(alone[0], found[0], rtol=1e-4, atol=1e-6)


def test_clip_without_a_tokenizer_has_images_but_no_texts(clip_folder, tmp_path, images):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        if (clip_folder / name).exists():
            (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    spec = f"transformers={tmp_path}"
    assert extract_features(images, spec).shape == (3, 12)
    with pytest.raises(RequestError, match="holds no tokenizer"):
        embed_texts(spec, ["a satellite image"])


def test_dinov2_gives_its_pooled_output_and_knows_no_texts(tmp_path, images):
    torch.manual_seed(2)
    config = Dinov2Config(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    processor = BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor.save_pretrained(tmp_path)
    space = open_space(f"transformers={tmp_path}")
    with torch.inference_mode():
        expected = model(**processor(list(images), return_tensors="pt")).pooler_output
    np.testing.assert_allclose(space.extract(images).features, expected, rtol=1e-4, atol=1e-5)
    assert "pooled output" in space.description
    with pytest.raises(RequestError, match="knows no texts"):
        embed_texts(space.name, ["a satellite image"])


def test_a_classifier_without_a_trained_pooler_gives_its_first_token_each_time_alike(
    tmp_path, images
):
    # ViT checkpoints with a class head hold no pooler; a random one would be made at each start.
    torch.manual_seed(3)
    model = ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8)).eval()
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessor(size=SQUARE)
    processor.save_pretrained(tmp_path)
    space = open_transformers(str(tmp_path))
    with torch.inference_mode():
        hidden = model.vit(**processor(list(images), return_tensors="pt")).last_hidden_state
    np.testing.assert_allclose(space.extract(images).features, hidden[:, 0], rtol=1e-4, atol=1e-5)
    assert "first token" in space.description
    again = open_transformers(str(tmp_path))
    np.testing.assert_array_equal(again.extract(images).features, space.extract(images).features)


def test_missing_weights_are_refused_rather_than_drawn_at_random(clip_folder, tmp_path):
    for path in clip_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"lacks 1 weights of its model, such as visual_proj"):
        open_space(f"transformers={tmp_path}")


def test_pickled_weights_are_not_read(clip_folder, tmp_path):
    for path in clip_folder.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(clip_folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(RequestError, match="cannot be read as weights"):
        open_space(f"transformers={tmp_path}")


@pytest.mark.parametrize("spec", ["transformers={}", "inception={}", "open_clip=ViT-B-32:{}"])
def test_paths_that_do_not_exist_are_named_and_nothing_is_downloaded(tmp_path, spec):
    path = tmp_path / "weights"
    with pytest.raises(RequestError, match=f"{path} does not exist.*nothing is downloaded"):
        open_space(spec.format(path))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such model"}))
    with pytest.raises(RequestError, match="cannot be read as weights of the feature space 'trans"):
        open_space(f"transformers={tmp_path}")


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (sys.exit, ("unpickled",))


def test_tensors_are_read_from_both_formats_and_code_from_neither(tmp_path):
    weights = {"a": torch.arange(3.0)}
    torch.save(weights, tmp_path / "a.pth")
    save_file(weights, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        assert torch.equal(read_tensors(tmp_path / name)["a"], weights["a"])
    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="no file of plain tensors"):
        read_tensors(tmp_path / "trap.pth")
    pytest.importorskip("torch_fidelity")
    with pytest.raises(RequestError, match=r"trap.pth cannot be read as weights"):
        open_space(f"inception={tmp_path / 'trap.pth'}")


@pytest.mark.parametrize(
    ("spec", "module", "package"),
    [
        ("inception={}", "torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity"),
        ("open_clip=ViT-B-32:{}", "open_clip", "open-clip-torch"),
    ],
)
def test_optional_packages_are_named_with_their_command(
    monkeypatch, tmp_path, spec, module, package
):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RequestError, match=f"needs the package {package}.*pip install {package}"):
        open_space(spec.format(path))


def test_inception_is_torch_fidelitys_network_with_the_probabilities_of_its_score(
    monkeypatch, tmp_path, images
):
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = inception.FeatureExtractorInceptionV3
    torch.manual_seed(4)
    with monkeypatch.context() as patch:  # its constructor wants the weights that we are to make
        patch.setattr(network, "load_state_dict", lambda *_: None)
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        made = network("made", ["2048", "logits_unbiased"])
    torch.save(made.state_dict(), tmp_path / "weights.pth")
    space = open_space(f"inception={tmp_path / 'weights.pth'}")
    found = space.extract(images[:1])
    with torch.inference_mode():
        pooled, logits = made(torch.from_numpy(images[:1]).permute(0, 3, 1, 2))
    np.testing.assert_allclose(found.features, pooled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.probabilities, logits.softmax(1), rtol=1e-4, atol=1e-6)
    assert found.features.shape == (1, 2048) == (1, space.width)
    assert found.probabilities.shape == (1, 1008)
    assert len(space.identity) == 64


@pytest.fixture(scope="module")
def open_clip_weights(tmp_path_factory):
    """A tiny architecture that open_clip is told of, and the file of its weights."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("open_clip")
    config = {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
        },
    }  # fmt: skip
    (folder / "ecomap-test.json").write_text(json.dumps(config))
    hub = config | {"text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta"}}
    (folder / "ecomap-hub.json").write_text(json.dumps(hub))
    wide = config | {"embed_dim": 20}
    (folder / "ecomap-wide.json").write_text(json.dumps(wide))
    open_clip.add_model_config(folder)
    torch.manual_seed(5)
    model = open_clip.create_model("ecomap-test")
    save_file(model.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors", model.eval()


def test_open_clip_gives_image_and_text_embeddings_as_the_package_does(open_clip_weights, images):
    import open_clip
    from PIL import Image

    path, model = open_clip_weights
    space = open_space(f"open_clip=ecomap-test:{path}")
    _, prepare = open_clip.create_model_from_pretrained("ecomap-test", pretrained=str(path))
    with torch.inference_mode():
        pixels = torch.stack([prepare(Image.fromarray(image)) for image in images])
        pictures = model.encode_image(pixels).numpy()
        texts = model.encode_text(open_clip.tokenize(["a satellite image", "Barren"])).numpy()
    np.testing.assert_allclose(space.extract(images).features, pictures, rtol=1e-4, atol=1e-5)
    found = embed_texts(space.name, ["a satellite image", "Barren"])
    np.testing.assert_allclose(found, texts, rtol=1e-4, atol=1e-5)
    assert space.width == 12 == found.shape[1]
    assert "ecomap-test" in space.description


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-model:{}", "knows no architecture 'no-such-model'"),
        ("ecomap-hub:{}", "takes its tokenizer or text tower from a model hub"),
        ("ecomap-wide:{}", "cannot be read as weights of the feature space 'open_clip'"),
        ("{}", "must be open_clip=MODEL:FILE"),
    ],
)
def test_open_clip_refuses_what_it_does_not_know_would_download_or_does_not_fit(
    open_clip_weights, name, words
):
    path, _ = open_clip_weights
    with pytest.raises(RequestError, match=words):
        open_space("open_clip=" + name.format(path))
