"""Settings of trainings that start from, or make, a transformer of Stable Diffusion 3's kind.

Every default with its meaning; YAML holds only what differs. What learns is stated in one place,
`LearnConfig`; all else of a base stays as it is.

Longer than the budget because a training's settings are read in one place.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ecomap.config import Config
from ecomap.train_config import OptimConfig

CONFIG_VERSION = 2
"""Raised whenever an older version of ecomap would misunderstand a newer config."""

LoraTarget = Literal["image", "text", "image_mlp", "text_mlp"]
"""Projections of a joint block that a LoRA adapts: attention and MLP of each stream."""

ControlImage = Literal[
    "reference", "canny", "lineart_standard", "hed", "pidinet", "teed", "mlsd", "midas", "normalbae"
]
"""What a control image shows: another month of the place, or what a detector of controlnet-aux
sees in that month."""

ControlChannel = Literal[
    "reference_valid", "months_gap", "reference_sin", "reference_cos", "canny", "lineart_standard",
    "temperature_now", "temperature_season", "temperature_change",
    "precipitation_now", "precipitation_season", "precipitation_change",
    "solar_now", "solar_season", "solar_change",
]  # fmt: skip
"""Extra control channels, each as a value per latent cell: where the reference has data, how many
months lie between it and the target, the reference's place in the year, edges, and maps of climate
(`ecomap.climate_maps`)."""


class TransformerConfig(Config):
    """Size of the transformer and its text encoders. Width is heads times head width."""

    num_layers: int = 8
    num_heads: int = 4
    head_width: int = 64
    joint_attention_width: int = 256
    """Width of the context: at least the sum of both text encoders' widths."""
    max_latent_side: int = 64
    """Side of the largest latents that positions are known for."""
    text_width: int = 128
    """Width and projection of each text encoder."""
    text_layers: int = 2
    text_heads: int = 4
    climate_width: int = 192
    climate_layers: int = 2
    climate_heads: int = 3

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        if self.joint_attention_width < 2 * self.text_width:
            raise ValueError(
                f"joint_attention_width {self.joint_attention_width} must be at least twice "
                f"text_width {self.text_width}"
            )
        if self.text_width % self.text_heads or self.climate_width % self.climate_heads:
            raise ValueError("text_width and climate_width must be multiples of their heads")
        return self


class DropConfig(Config):
    """What training withholds, so that every door works alone and guidance has its opposite."""

    text_and_tokens: float = Field(default=0.6, ge=0)
    """Share of samples with both doors open; likewise the three below."""
    tokens_only: float = Field(default=0.15, ge=0)
    text_only: float = Field(default=0.15, ge=0)
    nothing: float = Field(default=0.1, ge=0)
    group: float = Field(default=0.1, ge=0, lt=1)
    """Probability of withholding each group of the tokens' facts from a sample."""
    anomalies: bool = False
    """Whether anomalies of the months are never told: values alone, as of a dataset without
    normals."""

    @model_validator(mode="after")
    def _some_share(self) -> Self:
        if self.text_and_tokens + self.tokens_only + self.text_only + self.nothing <= 0:
            raise ValueError("one of the four shares must be above 0")
        return self


class LoraConfig(Config):
    """Low-rank adaptation of the transformer (Hu et al., 2021, https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(default=16, gt=0)
    alpha: float | None = Field(default=None, gt=0)
    """Scale: updates are multiplied by alpha / rank (rank-stabilised: alpha / sqrt(rank)). By
    default the rank, hence 1."""
    targets: tuple[LoraTarget, ...] = ("image",)
    """Which projections are adapted. The numbers of a prompt arrive by the text stream."""
    rslora: bool = False
    """Rank-stabilised scale (Kalajdzievski, 2023, https://arxiv.org/abs/2312.03732)."""
    dora: bool = False
    """Magnitude and direction apart (Liu et al., 2024, https://arxiv.org/abs/2402.09353)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    gaussian: bool = True
    """Whether A starts Gaussian, as EcoMapper's; else uniform by Kaiming's rule. B starts at 0."""

    @model_validator(mode="after")
    def _adapts_something(self) -> Self:
        if not self.targets:
            raise ValueError("targets is empty; name at least one")
        return self


class ControlNetConfig(Config):
    """A ControlNet beside the frozen transformer (Zhang et al., 2023)."""

    start: Path | None = None
    """Trained ControlNet to start from; by default blocks are copied from the base."""
    num_layers: int | None = Field(default=None, gt=0)
    """Copied blocks, fewer than the base has; by default half of them."""
    image: ControlImage = "reference"
    """What the latent channels of the control show."""
    channels: tuple[ControlChannel, ...] = ()
    """Channels beside them. The stock pipeline can feed none: leave it empty for that one."""
    max_gap_months: int = Field(default=6, gt=0)
    """A reference is another month of the place, at most so many months earlier."""
    min_gap_months: int = Field(default=1, ge=0)
    """And at least so many; at 0 a month may be its own reference, of which nothing changes."""
    wrap_year: bool = False
    """Whether a place's months form a circle, as those of a mean year do; else a reference is
    earlier than its target."""
    max_reference_cloud_frac: float = Field(default=1.0, gt=0, le=1)
    """References with more cloud are not used; those of unknown cloudiness are."""
    detector_weights: Path | None = None
    """Folder of the detector's weights, for detectors that have any; nothing is downloaded."""
    lora: LoraConfig | None = None
    """Adapt copied blocks by LoRA in place of training them whole; what starts at zero is always
    trained whole."""
    edit: bool = False
    """Whether the ControlNet changes its reference in place of making an image anew
    (`ecomap.edit.EditHead`)."""
    holes: float = Field(default=0.0, ge=0, lt=1)
    """Share of samples whose reference has holes, as under cloud, which the ControlNet fills."""
    drop: float = Field(default=0.1, ge=0, lt=1)
    """Share of samples that see an empty control."""

    @model_validator(mode="after")
    def _edits_what_it_sees(self) -> Self:
        if (self.edit or self.holes) and self.image != "reference":
            raise ValueError("edit and holes are of a reference; set image to reference")
        if (self.edit or self.holes) and "reference_valid" not in self.channels:
            raise ValueError("edit and holes need the channel reference_valid")
        if self.min_gap_months > self.max_gap_months:
            raise ValueError("min_gap_months is above max_gap_months")
        return self


class LearnConfig(Config):
    """What learns; all else stays as the base has it. Any of them may learn together."""

    lora: LoraConfig | None = None
    layers: tuple[str, ...] = ()
    """Parts of the transformer that are trained whole, by the names of its modules, such as
    ``norm_out`` and ``proj_out``; ``all`` is the whole transformer."""
    last_blocks: int = Field(default=0, ge=0)
    """Number of blocks at the end of the transformer that are trained whole."""
    text_encoders: bool = False
    """Whether both CLIP encoders learn. T5 never does."""
    climate_encoder: bool = False
    """Whether the climate encoder learns; where the base has none, a new one is made."""
    controlnet: ControlNetConfig | None = None

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        whole = self.layers or self.last_blocks
        if not (
            whole or self.lora or self.controlnet or self.text_encoders or self.climate_encoder
        ):
            raise ValueError("nothing would learn; set at least one")
        if self.lora and (self.last_blocks or "all" in self.layers):
            raise ValueError(
                "lora adapts blocks that are also trained whole; choose one of the two"
            )
        if self.controlnet and (whole or self.lora or self.text_encoders):
            raise ValueError(
                "a controlnet learns beside a frozen base: only climate_encoder may too"
            )
        return self


class ShowConfig(Config):
    """Pictures that a training makes as it goes, always with the same noise."""

    every: int | None = Field(default=None, gt=0)
    """Steps between pictures; by default at every validation."""
    num_tiles: int = Field(default=4, ge=0)
    """Held-out tiles, each beside its real image; 0 for no pictures."""
    prompts: tuple[str, ...] = ()
    """Texts for the text door alone."""
    sweep: tuple[str, ...] = ("temperature=-6", "temperature=+6", "precipitation=x0.3")
    """Changes of climate that tiles are shown under, in the words of `ecomap generate`."""
    steps: int = Field(default=12, gt=0)
    """Solver steps of a picture."""
    guidance: float = Field(default=2.0, ge=0)


class TrainConfig(Config):
    """Training of a transformer and what conditions it, on cached latents."""

    task: Literal["transformer"] = "transformer"
    config_version: int = CONFIG_VERSION
    """Version of these settings; those of a newer ecomap are refused."""
    dataset: Path
    """Dataset folder with splits."""
    base: str | None = None
    """Bundle to start from: a name, a folder, or ``owner/name`` on the model hub. By default
    nothing: a transformer of the sizes below is trained from scratch."""
    base_parts: tuple[str, ...] = (
        "transformer", "text_encoder", "text_encoder_2", "climate_encoder"
    )  # fmt: skip
    """Networks that are taken from the base; others start untrained with the sizes below."""
    adapter: str | None = None
    """Adapter that is merged into the base before the first step: a name, or a folder."""
    learn: LearnConfig | None = None
    """What learns; by default everything."""
    vae: Path | None = None
    """Folder of the frozen autoencoder that makes the latents; by default the base's."""
    bundle_vae: Path | None = None
    """Autoencoder of the same latent space that goes into the bundle; by default the same."""
    cache: Path = Path("runs/cache")
    """Folder of latents and text embeddings; each is made once and found by its content."""
    name: str = "ecomap-tiny"
    """Name on the model card."""
    version: str = "0"
    imagery: str = ""
    """What the training images are, in words for the card; by default the dataset's sources."""
    limits: str = ""
    """What the result must not be used for, in words for the card."""
    attribution: tuple[str, ...] = ()
    """Whom the card thanks beside the dataset's own sources."""
    license: str | None = None
    """Licence of the result; by default the base's, or Apache-2.0 from scratch."""
    transformer: TransformerConfig = TransformerConfig()
    """Sizes of what is trained from scratch."""
    masks: str = "ecomap"
    """Prompt masks (`ecomap.prompt.MASKS`)."""
    text_variants: int = Field(default=0, ge=0)
    """Prompts drawn for each record and encoded once, before the first step; 0 encodes new ones
    in every step, which frozen encoders make dear and learning ones need."""
    use_t5: bool = True
    """Whether a base's T5 is used; else its tokens are zero, at the cost of one."""
    t5_tokens: int | None = Field(default=None, gt=0)
    """T5 tokens of a prompt, in training and in the result; by default as many as the base's
    card says. SD3 masks no padding: another number is another function."""
    drop: DropConfig = DropConfig()
    density: Literal["uniform", "logit_normal", "mode", "cosmap"] = "logit_normal"
    """How noise levels are drawn, with the mean and spread below for ``logit_normal``."""
    density_mean: float = 0.0
    """With the paper's sign: above 0 prefers noise."""
    density_std: float = Field(default=1.0, gt=0)
    density_scale: float | None = None
    """Scale of the ``mode`` density; by default `ecomap.flow.MODE_SCALE`."""
    null_ramp: tuple[int, int] = (0, 0)
    """Steps between which the number of zero tokens for the absent T5 grows from 1 to its full
    number. All of them at once draw nearly all attention from an untrained model, which then takes
    very long to notice its climate tokens."""
    shift: float = Field(default=1.0, gt=0)
    """Resolution shift, in training and in the bundle's sampling schedule."""
    require_climate: bool = False
    """Whether tiles without any climate are left out; they are counted."""
    leave_out_flags: tuple[str, ...] = ()
    """Tiles with one of these flags (`data_prep.quality`) are left out and counted."""
    crop_px: int | None = Field(default=None, gt=0)
    """Side of the windows that are cut from tiles; by default whole tiles."""
    variants: int = Field(default=1, gt=0)
    """Windows (and flips) of each tile, drawn from its id and encoded once."""
    flips: bool = False
    """Whether variants may be mirrored and turned."""
    cloud_masks: Path | None = None
    """Folder of masks, named as the frames; where a mask is not 0, the loss is not taken. Missing
    data (black in all bands) never counts."""
    class_balance: float = Field(default=0.0, ge=0, le=1)
    """0 draws tiles as often as the data has them, 1 every land cover equally often."""
    batch_size: int = Field(default=64, gt=0)
    """Samples of an optimiser step, over all processes and micro-batches."""
    max_tiles: int | None = Field(default=None, gt=0)
    """Training tiles that are used, spread over the dataset; by default all."""
    num_validation: int = Field(default=192, gt=0)
    """Held-out frames whose loss is followed."""
    bf16: bool = True
    """Whether the networks run under bfloat16 autocast. What learns is stored in float32."""
    base_bf16: bool = False
    """Whether what is frozen is stored in bfloat16: half the memory."""
    result: Literal["last", "best"] = "last"
    """Which averaged weights a run leaves: those of its end, or of its lowest held-out loss."""
    half_adapter: bool = False
    """Whether an adapter is written in float16, in half the space: not for the smallest updates."""
    quantise: Literal["int8", "int4"] | None = None
    """Store the frozen transformer's matrices in so few bits (torchao, the extra ``quantised``).
    SD3 medium needs none: it saves 1 to 2 GB and is slower."""
    gradient_checkpointing: bool = False
    """Compute activations of blocks again in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile each block (GPU; on a CPU it does not pay)."""
    seed: int = Field(default=0, ge=0)
    optim: OptimConfig = OptimConfig()
    show: ShowConfig = ShowConfig()

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, values: object) -> object:
        version = values.get("config_version", CONFIG_VERSION) if isinstance(values, dict) else 0
        try:
            is_newer = float(str(version)) > CONFIG_VERSION
        except ValueError:
            is_newer = False  # no number: refused as such
        if is_newer:
            raise ValueError(
                f"config_version {version} is of a newer ecomap; this one reads up to "
                f"{CONFIG_VERSION}. Upgrade ecomap"
            )
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.base is None and self.learn is not None:
            raise ValueError("learn names what learns of a base; set base, or leave learn out")
        if self.base is None and self.vae is None:
            raise ValueError("vae is missing; without a base it must be given")
        learning_text = self.learn is None or self.learn.text_encoders
        if self.text_variants and learning_text:
            raise ValueError("text_variants needs text encoders that do not learn; set it to 0")
        if self.base_bf16 and not self.bf16:
            raise ValueError("base_bf16 needs bf16: frozen and learning parts meet under autocast")
        whole = self.learn is None or self.learn.last_blocks or "all" in self.learn.layers
        if self.quantise and whole:
            raise ValueError("quantise is for what stays frozen; train a lora or a controlnet")
        if self.crop_px is not None and self.crop_px % 16:
            raise ValueError(f"crop_px {self.crop_px} must be a multiple of 16")
        return self
