"""Small networks of every architecture that spandrel knows, with random weights.

Widths and depths are the smallest that spandrel recognizes; windows, strides and the kinds of
layers are those of the models people have, since these decide what an ONNX of them can be.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SPREAD = 0.2
"""Standard deviation of the values that a network makes of noise, about a mean of 0.5: results that
are black or white would be equal in every runtime, whatever they compute."""


@dataclass(frozen=True)
class Small:
    """One network: its class below `spandrel.architectures`, and its parameters."""

    path: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Folder of the architecture in spandrel."""
        return self.path.partition(".")[0]

    def made(self) -> nn.Module:
        """Return the network in evaluation mode, with the same random weights each time."""
        folder, module, kind = self.path.split(".")
        source = importlib.import_module(f"spandrel.architectures.{folder}.__arch.{module}")
        torch.manual_seed(0)
        network: nn.Module = getattr(source, kind)(**self.options)
        return network.eval().requires_grad_(False)


@torch.inference_mode()
def enliven(network: nn.Module, run: Callable[[Tensor], Tensor], channels: int) -> None:
    """Scale the last layer so that the results fill the range.

    Args:
        run: the network as its program calls it, [N, C, H, W] in [0, 1].
    """
    layers: list[nn.Module] = []
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks = [
        it.register_forward_hook(lambda layer, *_: layers.append(layer))
        for it in network.modules()
        if isinstance(it, kinds)
    ]
    noise = torch.rand(1, channels, 128, 128, generator=torch.Generator().manual_seed(1))
    made = run(noise)
    for hook in hooks:
        hook.remove()
    last: Any = layers[-1]
    gain = SPREAD / made.std().clamp(min=1e-6)
    last.weight *= gain
    if last.bias is not None:
        last.bias *= gain
        last.bias += 0.5 - (run(noise).mean() if gain.isfinite() else 0.5)


_WINDOWS = {"depths": (2,), "num_heads": (2,), "embed_dim": 12}
_SHUFFLE = {"upscale": 2, "upsampler": "pixelshuffle"}

NETWORKS: dict[str, Small] = {
    "RealESRGAN Compact (16 convolutions of 64)": Small("Compact.SRVGG.SRVGGNetCompact"),
    "RealESRGAN Compact x2": Small("Compact.SRVGG.SRVGGNetCompact", {"upscale": 2}),
    "RealESRGAN Compact x1": Small("Compact.SRVGG.SRVGGNetCompact", {"upscale": 1}),
    "UltraCompact (8 of 64)": Small("Compact.SRVGG.SRVGGNetCompact", {"num_conv": 8}),
    "SuperUltraCompact (8 of 24) x2": Small(
        "Compact.SRVGG.SRVGGNetCompact", {"num_feat": 24, "num_conv": 8, "upscale": 2}
    ),
    "Swift-SRGAN": Small(
        "SwiftSRGAN.SwiftSRGAN.Generator", {"num_channels": 16, "num_blocks": 2}
    ),
    "HAT": Small(
        "HAT.HAT.HAT",
        {**_WINDOWS, **_SHUFFLE, "window_size": 16, "num_feat": 16, "squeeze_factor": 6},
    ),
    "GRL": Small(
        "GRL.grl.GRL",
        {
            **{"embed_dim": 16, "depths": [2], "num_heads_window": [2], "num_heads_stripe": [2]},
            **{"upscale": 2, "upsampler": "pixelshuffledirect", "window_size": 8},
            **{"stripe_size": [8, 8], "mlp_ratio": 2.0, "anchor_window_down_factor": 2},
        },
    ),
    "Swin2SR": Small(
        "Swin2SR.Swin2SR.Swin2SR", {**_WINDOWS, "window_size": 8, "upsampler": "pixelshuffle"}
    ),
    "SwinIR": Small(
        "SwinIR.SwinIR.SwinIR", {**_WINDOWS, **_SHUFFLE, "window_size": 8}
    ),
    "SwinIR, light": Small(
        "SwinIR.SwinIR.SwinIR",
        {**_WINDOWS, "upscale": 2, "window_size": 8, "upsampler": "pixelshuffledirect"},
    ),
    "SwinIR, real": Small(
        "SwinIR.SwinIR.SwinIR",
        {**_WINDOWS, "upscale": 4, "window_size": 8, "upsampler": "nearest+conv"},
    ),
    "GFPGAN": Small("GFPGAN.gfpganv1_clean_arch.GFPGANv1Clean"),
    "RestoreFormer": Small(
        "RestoreFormer.restoreformer_arch.RestoreFormer", {"n_embed": 16, "ch": 32}
    ),
    "LaMa": Small("LaMa.LaMa.LaMa", {"in_nc": 4}),
    "OmniSR": Small("OmniSR.OmniSR.OmniSR", {"num_feat": 16, "up_scale": 2}),
    "SCUNet": Small("SCUNet.SCUNet.SCUNet", {"config": [2] * 7, "dim": 64}),
    "FBCNN": Small("FBCNN.FBCNN.FBCNN", {"nc": [8, 16, 16, 512], "nb": 4}),
    "Uformer": Small(
        "Uformer.Uformer.Uformer", {"embed_dim": 16, "depths": [2, *[1] * 7, 2]}
    ),
    "RGT": Small(
        "RGT.rgt.RGT", {"embed_dim": 64, "depth": [2], "num_heads": [2], "split_size": [8, 8]}
    ),
    "DAT": Small(
        "DAT.DAT.DAT",
        {"embed_dim": 64, "depth": [2], "num_heads": [2], "split_size": [8, 16]},
    ),
    "CRAFT": Small(
        "CRAFT.CRAFT.CRAFT", {"embed_dim": 48, "depths": [2], "num_heads": [6], "upscale": 2}
    ),
    "KBNet, large": Small(
        "KBNet.kbnet_l.KBNet_l", {"dim": 24, "num_blocks": [1] * 4, "num_refinement_blocks": 1}
    ),
    "KBNet, small": Small(
        "KBNet.kbnet_s.KBNet_s",
        {
            **{"width": 16, "middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 1]},
            **{"dec_blk_nums": [1, 1, 1, 1]},
        },
    ),
    "DITN": Small(
        "DITN.DITN_Real.DITN_Real", {"dim": 12, "ITL_blocks": 1, "SAL_blocks": 1, "upscale": 2}
    ),
    "MM-RealSR": Small(
        "MMRealSR.mmrealsr_arch.MMRRDBNet_test",
        {
            **{"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 1, "num_grow_ch": 8},
            **{"num_feats": [16, 16, 16, 16], "num_blocks": [1, 1, 1, 1]},
        },
    ),
    "SPAN": Small("SPAN.span.SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 48}),
    "SPAN x2": Small(
        "SPAN.span.SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16, "upscale": 2}
    ),
    "Real-CUGAN x2": Small("RealCUGAN.upcunet_v3.UpCunet2x"),
    "Real-CUGAN x3": Small("RealCUGAN.upcunet_v3.UpCunet3x"),
    "Real-CUGAN x4": Small("RealCUGAN.upcunet_v3.UpCunet4x"),
    "SAFMN": Small("SAFMN.safmn.SAFMN", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "SAFMN BCIE": Small(
        "SAFMNBCIE.safmn_bcie.SAFMN_BCIE", {"dim": 16, "n_blocks": 2, "num_layers": 2}
    ),
    "DCTLSA": Small("DCTLSA.dctlsa.DCTLSA", {"nf": 20, "upscale": 2}),
    "FFTformer": Small(
        "FFTformer.fftformer_arch.FFTformer",
        {"dim": 8, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1},
    ),
    "NAFNet": Small(
        "NAFNet.NAFNet_arch.NAFNet", {"width": 8, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
    ),
    "ATD": Small(
        "ATD.atd_arch.ATD",
        {**_WINDOWS, **_SHUFFLE, "window_size": 16, "category_size": 128, "num_tokens": 16},
    ),
    "MixDehazeNet": Small(
        "MixDehazeNet.MixDehazeNet.MixDehazeNet", {"embed_dims": [8, 16, 16, 16, 8]}
    ),
    "DRUNet": Small(
        "DRUNet.network_unet.DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [8, 16, 16, 16], "nb": 2}
    ),
    "DnCNN": Small("DnCNN.network_dncnn.DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 16}),
    "DnCNN, gray": Small("DnCNN.network_dncnn.DnCNN", {"nc": 16, "act_mode": "R"}),
    "IPT": Small(
        "IPT.ipt.IPT",
        {"patch_size": 12, "n_feats": 16, "num_heads": 2, "num_layers": 1, "scale": [2]},
    ),
    "DRCT": Small("DRCT.drct_arch.DRCT", {**_WINDOWS, **_SHUFFLE, "gc": 8}),
    "ESRGAN": Small("ESRGAN.RRDB.RRDBNet", {"num_filters": 16, "num_blocks": 1}),
    "ESRGAN x8": Small("ESRGAN.RRDB.RRDBNet", {"num_filters": 16, "num_blocks": 1, "scale": 8}),
    "ESRGAN x1": Small("ESRGAN.RRDB.RRDBNet", {"num_filters": 16, "num_blocks": 1, "scale": 1}),
    "RealESRGAN x2plus": Small(
        "ESRGAN.RRDB.RRDBNet",
        {"in_nc": 12, "num_filters": 16, "num_blocks": 1, "scale": 4, "shuffle_factor": 2},
    ),
    "ESRGAN+ x2": Small(
        "ESRGAN.RRDB.RRDBNet", {"num_filters": 16, "num_blocks": 1, "scale": 2, "plus": True}
    ),
    "ESRGAN x4 (23 blocks of 64)": Small("ESRGAN.RRDB.RRDBNet"),
    "PLKSR": Small("PLKSR.PLKSR.PLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "RealPLKSR": Small(
        "PLKSR.RealPLKSR.RealPLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}
    ),
    "RealPLKSR, dysample": Small(
        "PLKSR.RealPLKSR.RealPLKSR",
        {"dim": 16, "n_blocks": 2, "upscaling_factor": 2, "dysample": True},
    ),
    "RetinexFormer": Small(
        "RetinexFormer.retinexformer_arch.RetinexFormer", {"n_feat": 8, "stage": 1}
    ),
    "HVI-CIDNet": Small("HVICIDNet.cidnet.CIDNet", {"channels": [8, 8, 16, 32]}),
    "SeemoRe": Small(
        "SeemoRe.seemore_arch.SeemoRe",
        {"scale": 2, "num_experts": 3, "num_layers": 2, "embedding_dim": 16},
    ),
    "MoSR": Small("MoSR.mosr_arch.MoSR", {"upscale": 2, "n_block": 2, "dim": 16}),
    "MoESR": Small(
        "MoESR.MoESR.MoESR",
        {"scale": 2, "dim": 16, "n_blocks": 1, "n_block": 1, "upsample_dim": 16},
    ),
    "RCAN": Small(
        "RCAN.rcan_arch.RCAN", {"scale": 2, "n_resgroups": 1, "n_resblocks": 2, "n_feats": 16}
    ),
    "FDAT": Small(
        "FDAT.fdat.FDAT",
        {"scale": 2, "embed_dim": 16, "num_groups": 1, "depth_per_group": 2, "mid_dim": 16},
    ),
    "AuraSR": Small(
        "AuraSR.aura_sr.UnetUpsampler",
        {
            **{"dim": 8, "image_size": None, "input_image_size": None, "skip_connect_scale": 0.4},
            "style_network": {"dim_in": 16, "dim_out": 64, "depth": 2},
        },
    ),
}  # fmt: skip
"""Networks by the label of their row."""
