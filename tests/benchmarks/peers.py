"""The objectives as PyTorch users have them: Hugging Face's classes put together for one step.

A function of PEERS makes a module (pixels (b t c h w)) -> loss, one of OURS gives our objective the
same settings. Masks have the same counts and labels the same number, not the same values.

  mae       `VideoMAEForPreTraining`
  vista     the same with a second `VideoMAEDecoder`, and `ViTModel` without its norm as the teacher
            of each tubelet's first frame, forward only
  classify  `VideoMAEForVideoClassification`
  jepa      `VJEPA2Model`'s encoder on gathered tokens, its predictor, a copy as averaged teacher
  clip      `VideoMAEModel`'s mean token and `CLIPTextModelWithProjection`, symmetric InfoNCE
"""

import copy

import numpy as np

from surgjax.models.video_vit import SIZES

FEATURE_DECODER_DEPTH = 2
FEATURE_WEIGHT = 0.05
CLASSES = 7
MOMENTUM = 0.99925
TEXT = dict(vocab_size=49408, length=77, width=512, depth=12, heads=8)  # CLIP ViT-B's
DIM = 512
MASKS = {"short": (0.23, 0.48), "long": (0.0625, 0.7)}  # shares kept and predicted


def masked(arguments):
    return dict(mask_ratio=arguments.mask_ratio, decoder_depth=arguments.decoder_depth), {}


def with_teacher(arguments):
    more = dict(feature_decoder_depth=FEATURE_DECODER_DEPTH, feature_weight=FEATURE_WEIGHT)
    return masked(arguments)[0] | more | {"teacher": {"size": arguments.teacher}}, {}


def labelled(arguments):
    about = {"kind": "one_of_n", "classes": [str(i) for i in range(CLASSES)]}
    return dict(labels={"phase": about}), {}


def predictive(arguments):
    return {}, dict(positions="rope_3d", qkv_bias="all")


def contrastive(arguments):
    text = dict(family="clip", **TEXT)
    return dict(text=text, dim=DIM, temperature="log_scale", tokens=TEXT["length"]), {}


def extras(arguments, objective):
    """What a batch holds besides video and index, in the shapes our objective asks for."""
    rng, made = np.random.default_rng(0), {}
    for name, (shape, dtype) in objective.batch_extras.items():
        made[name] = rng.integers(0, 2, (arguments.batch, *shape)).astype(dtype)
    if "labels" in made:
        made["labels"] = np.eye(CLASSES, dtype=np.uint8)[np.arange(arguments.batch) % CLASSES]
    if "tokens" in made:
        made["tokens"] = sentences(arguments).astype(np.int32)
        made["token_mask"][:] = True
        for name in ("caption", "recording"):
            made[name] = np.arange(arguments.batch, dtype=made[name].dtype)
    return made


def sentences(arguments):
    """Token ids whose last is CLIP's end of text."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, TEXT["vocab_size"] - 2, (arguments.batch, TEXT["length"]))
    ids[:, -1] = TEXT["vocab_size"] - 1
    return ids


def tube_mask(arguments):
    """(b n) bool, True where hidden."""
    import torch

    places = (arguments.image // 16) ** 2
    order = torch.rand(arguments.batch, places).argsort(dim=1)
    hidden = order < int(arguments.mask_ratio * places)
    return hidden.repeat(1, arguments.frames // 2)


def video_config(arguments, **more):
    import transformers

    size = SIZES[arguments.size]
    return transformers.VideoMAEConfig(
        image_size=arguments.image,
        num_frames=arguments.frames,
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        decoder_hidden_size=size.decoder_width,
        decoder_num_hidden_layers=arguments.decoder_depth,
        decoder_num_attention_heads=size.decoder_heads,
        decoder_intermediate_size=4 * size.decoder_width,
        layer_norm_eps=1e-6,
        attn_implementation="sdpa",
        **more,
    )


def mae(arguments):
    import torch
    import transformers

    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            config = video_config(arguments, use_mean_pooling=False)
            self.model = transformers.VideoMAEForPreTraining(config).train()
            self.register_buffer("hidden", tube_mask(arguments))

        def forward(self, pixels):
            return self.model(pixels, bool_masked_pos=self.hidden).loss

    return Masked()


def vista(arguments):
    import torch
    import transformers
    from transformers.models.videomae.modeling_videomae import VideoMAEDecoder

    size = SIZES[arguments.teacher]
    teacher = transformers.ViTModel(
        transformers.ViTConfig(
            image_size=arguments.image,
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            layer_norm_eps=1e-6,
            attn_implementation="sdpa",
        ),
        add_pooling_layer=False,
    )
    teacher.layernorm = torch.nn.Identity()

    class Vista(torch.nn.Module):
        def __init__(self):
            super().__init__()
            config = video_config(arguments, use_mean_pooling=False)
            self.autoencoder = transformers.VideoMAEForPreTraining(config).train()
            config = copy.deepcopy(config)
            config.decoder_num_hidden_layers = FEATURE_DECODER_DEPTH
            self.decoder = VideoMAEDecoder(config)
            self.decoder.head = torch.nn.Linear(config.decoder_hidden_size, size.width)
            self.down = torch.nn.Linear(config.hidden_size, config.decoder_hidden_size)
            self.mask_token = torch.nn.Parameter(torch.zeros(1, 1, config.decoder_hidden_size))
            self.teacher = teacher.eval().requires_grad_(False)
            self.register_buffer("hidden", tube_mask(arguments))

        def forward(self, pixels):
            auto, seen, masked = self.autoencoder, [], self.hidden
            keep = auto.videomae.register_forward_hook(lambda _, __, out: seen.append(out))
            pixel_loss = auto(pixels, bool_masked_pos=masked).loss
            keep.remove()
            x = self.down(seen[0].last_hidden_state)
            table = auto.position_embeddings.to(x.device, x.dtype).expand(len(x), -1, -1)
            shape = (len(x), -1, x.shape[-1])
            hidden = self.mask_token + table[masked].reshape(shape)
            x = torch.cat([x + table[~masked].reshape(shape), hidden], dim=1)
            found = self.decoder(x, hidden.shape[1]).logits
            with torch.no_grad():
                frames = pixels[:, ::2].flatten(0, 1)
                taught = self.teacher(frames).last_hidden_state[:, 1:]
                taught = taught.reshape(len(x), -1, taught.shape[-1])[masked]
            feature_loss = torch.nn.functional.smooth_l1_loss(
                found.float(), taught.reshape(found.shape).float()
            )
            return pixel_loss + FEATURE_WEIGHT * feature_loss

    return Vista()


def classify(arguments):
    import torch
    import transformers

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            config = video_config(arguments, num_labels=CLASSES)
            self.model = transformers.VideoMAEForVideoClassification(config).train()
            self.register_buffer("labels", torch.arange(arguments.batch) % CLASSES)

        def forward(self, pixels):
            return self.model(pixels, labels=self.labels).loss

    return Classifier()


def jepa(arguments):
    import torch
    import transformers

    size = SIZES[arguments.size]
    config = transformers.VJEPA2Config(
        crop_size=arguments.image,
        frames_per_clip=arguments.frames,
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        pred_num_mask_tokens=1,
        attn_implementation="sdpa",
    )
    tokens = arguments.frames // 2 * (arguments.image // 16) ** 2

    class Jepa(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.VJEPA2Model(config).train()
            self.teacher = copy.deepcopy(self.model.encoder).eval().requires_grad_(False)
            for name, (kept, hidden) in MASKS.items():
                order = torch.rand(arguments.batch, tokens).argsort(dim=1)
                keep, hide = int(kept * tokens), int(hidden * tokens)
                self.register_buffer(f"{name}_keep", order[:, :keep].sort(dim=1).values)
                self.register_buffer(f"{name}_hide", order[:, -hide:].sort(dim=1).values)

        def forward(self, pixels):
            with torch.no_grad():
                target = self.teacher(pixels).last_hidden_state.float()
                target = torch.nn.functional.layer_norm(target, target.shape[-1:])
            losses = []
            for name in MASKS:
                keep, hide = getattr(self, f"{name}_keep"), getattr(self, f"{name}_hide")
                x = self.model.encoder.embeddings(pixels)
                x = torch.take_along_dim(x, keep[:, :, None], dim=1)
                for layer in self.model.encoder.layer:
                    x = layer(x, keep)[0]
                x = self.model.encoder.layernorm(x)
                context = torch.zeros(target.shape, dtype=x.dtype, device=x.device)
                context = context.scatter(1, keep[:, :, None].expand(x.shape), x)
                guess = self.model.predictor(context, [keep], [hide]).last_hidden_state
                wanted = torch.take_along_dim(target, hide[:, :, None], dim=1)
                losses.append((guess.float() - wanted).abs().mean())
            return sum(losses) / len(losses)

        def average(self):
            pairs = zip(self.teacher.parameters(), self.model.encoder.parameters(), strict=True)
            with torch.no_grad():
                for old, new in pairs:
                    old.lerp_(new, 1 - MOMENTUM)

    return Jepa()


def clip(arguments):
    import torch
    import transformers

    text = transformers.CLIPTextConfig(
        vocab_size=TEXT["vocab_size"],
        hidden_size=TEXT["width"],
        intermediate_size=4 * TEXT["width"],
        num_hidden_layers=TEXT["depth"],
        num_attention_heads=TEXT["heads"],
        max_position_embeddings=TEXT["length"],
        eos_token_id=TEXT["vocab_size"] - 1,
        projection_dim=DIM,
        attn_implementation="sdpa",
    )

    class Clip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            config = video_config(arguments, use_mean_pooling=False)
            self.video = transformers.VideoMAEModel(config).train()
            self.text = transformers.CLIPTextModelWithProjection(text).train()
            self.projection = torch.nn.Linear(config.hidden_size, DIM)
            self.scale = torch.nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))
            self.register_buffer("ids", torch.from_numpy(sentences(arguments)))

        def forward(self, pixels):
            video = self.projection(self.video(pixels).last_hidden_state.mean(dim=1))
            words = self.text(self.ids).text_embeds
            unit = torch.nn.functional.normalize
            logits = self.scale.exp() * unit(video.float(), dim=1) @ unit(words.float(), dim=1).T
            pairs = torch.arange(len(logits), device=logits.device)
            entropy = torch.nn.functional.cross_entropy
            return (entropy(logits, pairs) + entropy(logits.T, pairs)) / 2

    return Clip()


OURS = {
    "mae": masked,
    "vista": with_teacher,
    "classify": labelled,
    "jepa": predictive,
    "clip": contrastive,
}
PEERS = {"mae": mae, "vista": vista, "classify": classify, "jepa": jepa, "clip": clip}
