"""Published config.json files, including fields of older versions."""

import pytest

from jaxgen.conversion import families
from jaxgen.models import registry
from jaxgen.models.encoders.clip_text import CLIP_L
from jaxgen.models.encoders.qwen2_5_vl import QWEN2_5_VL_7B
from tests.conversion.test_complete import LLAMA_3
from tests.conversion.test_complete import QWEN3

LEVELS = [128, 256, 512, 512, 1024, 1024]
# Where it lies on the hub -> (its fields, tensors beside it that decide something, our section).
FOLDERS = {
    'black-forest-labs/FLUX.1-dev/transformer': (dict(
        _class_name='FluxTransformer2DModel', attention_head_dim=128, guidance_embeds=True,
        in_channels=64, joint_attention_dim=4096, num_attention_heads=24, num_layers=19,
        num_single_layers=38, patch_size=1, pooled_projection_dim=768), (),
        dict(family='mmdit', pooled_dim=768, guidance_embed=True)),
    'black-forest-labs/FLUX.1-dev/vae': (dict(
        _class_name='AutoencoderKL', act_fn='silu', block_out_channels=LEVELS[:4],
        down_block_types=['DownEncoderBlock2D'] * 4, force_upcast=True, in_channels=3,
        latent_channels=16, latents_mean=None, latents_std=None, layers_per_block=2,
        mid_block_add_attention=True, norm_num_groups=32, out_channels=3, sample_size=1024,
        scaling_factor=0.3611, shift_factor=0.1159, up_block_types=['UpDecoderBlock2D'] * 4,
        use_post_quant_conv=False, use_quant_conv=False), (), dict(family='kl')),
    'hunyuanvideo-community/HunyuanVideo/transformer': (dict(
        _class_name='HunyuanVideoTransformer3DModel', attention_head_dim=128,
        guidance_embeds=True, in_channels=16, mlp_ratio=4.0, num_attention_heads=24,
        num_layers=20, num_refiner_layers=2, num_single_layers=40, out_channels=16, patch_size=2,
        patch_size_t=1, pooled_projection_dim=768, qk_norm='rms_norm', rope_axes_dim=[16, 56, 56],
        rope_theta=256.0, text_embed_dim=4096), (), dict(family='hunyuan_video')),
    'hunyuanvideo-community/HunyuanVideo/text_encoder': (dict(
        architectures=['LlamaModel'], attention_bias=False, attention_dropout=0.0, head_dim=128,
        hidden_act='silu', hidden_size=4096, initializer_range=0.02, intermediate_size=14336,
        max_position_embeddings=8192, mlp_bias=False, model_type='llama', num_attention_heads=32,
        num_hidden_layers=32, num_key_value_heads=8, rms_norm_eps=1e-5, rope_scaling=None,
        rope_theta=500000.0, tie_word_embeddings=False, vocab_size=128256), (),
        dict(LLAMA_3, family='llama', norm_eps=1e-5)),
    'Qwen/Qwen-Image/transformer': (dict(
        _class_name='QwenImageTransformer2DModel', attention_head_dim=128,
        axes_dims_rope=[16, 56, 56], guidance_embeds=False, in_channels=64,
        joint_attention_dim=3584, num_attention_heads=24, num_layers=60, out_channels=16,
        patch_size=2, pooled_projection_dim=768), (), dict(family='qwen_image')),
    'Qwen/Qwen2.5-VL-7B-Instruct': (dict(
        architectures=['Qwen2_5_VLForConditionalGeneration'], attention_dropout=0.0,
        vision_start_token_id=151652, vision_end_token_id=151653, image_token_id=151655,
        video_token_id=151656, hidden_act='silu', hidden_size=3584, initializer_range=0.02,
        intermediate_size=18944, max_position_embeddings=128000, max_window_layers=28,
        model_type='qwen2_5_vl', num_attention_heads=28, num_hidden_layers=28,
        num_key_value_heads=4, rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=32768,
        tie_word_embeddings=False, use_sliding_window=False, vision_config=dict(
            depth=32, hidden_act='silu', hidden_size=1280, intermediate_size=3420, num_heads=16,
            in_chans=3, out_hidden_size=3584, patch_size=14, spatial_merge_size=2,
            spatial_patch_size=14, window_size=112, fullatt_block_indexes=[7, 15, 23, 31],
            tokens_per_second=2, temporal_patch_size=2),
        rope_scaling=dict(type='mrope', mrope_section=[16, 24, 24]), vocab_size=152064),
        ('lm_head.weight',), QWEN2_5_VL_7B | {
            part: QWEN2_5_VL_7B[part] | dict(remat='none') for part in ('vision', 'text')}),
    'Tongyi-MAI/Z-Image-Turbo/transformer': (dict(
        _class_name='ZImageTransformer2DModel', all_f_patch_size=[1], all_patch_size=[2],
        axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512], cap_feat_dim=2560, dim=3840,
        in_channels=16, n_heads=30, n_kv_heads=30, n_layers=30, n_refiner_layers=2, norm_eps=1e-5,
        qk_norm=True, rope_theta=256.0, t_scale=1000.0), (), dict(family='z_image')),
    'Tongyi-MAI/Z-Image-Turbo/text_encoder': (dict(
        architectures=['Qwen3ForCausalLM'], attention_bias=False, head_dim=128, hidden_act='silu',
        hidden_size=2560, intermediate_size=9728, max_position_embeddings=40960,
        model_type='qwen3', num_attention_heads=32, num_hidden_layers=36, num_key_value_heads=8,
        rms_norm_eps=1e-6, rope_theta=1000000, tie_word_embeddings=True, vocab_size=151936), (),
        dict(QWEN3, family='qwen3')),
    'Efficient-Large-Model/Sana_1600M_512px_diffusers/transformer': (dict(
        _class_name='SanaTransformer2DModel', attention_bias=False, attention_head_dim=32,
        caption_channels=2304, cross_attention_dim=2240, cross_attention_head_dim=112, dropout=0.0,
        in_channels=32, mlp_ratio=2.5, norm_elementwise_affine=False, norm_eps=1e-6,
        num_attention_heads=70, num_cross_attention_heads=20, num_layers=20, out_channels=32,
        patch_size=1, sample_size=16), (), dict(family='sana')),
    'Efficient-Large-Model/Sana_1600M_512px_diffusers/vae': (dict(
        _class_name='AutoencoderDC', attention_head_dim=32, decoder_act_fns='silu',
        decoder_block_out_channels=LEVELS, decoder_norm_types='rms_norm',
        decoder_block_types=['ResBlock'] * 3 + ['EfficientViTBlock'] * 3,
        decoder_layers_per_block=[3] * 6, decoder_qkv_multiscales=[[], [], [], [5], [5], [5]],
        downsample_block_type='Conv', encoder_block_out_channels=LEVELS,
        encoder_block_types=['ResBlock'] * 3 + ['EfficientViTBlock'] * 3,
        encoder_layers_per_block=[2, 2, 2, 3, 3, 3],
        encoder_qkv_multiscales=[[], [], [], [5], [5], [5]], in_channels=3, latent_channels=32,
        scaling_factor=0.41407, upsample_block_type='interpolate'), (), dict(family='dc_ae')),
    'openai/clip-vit-large-patch14': (dict(
        architectures=['CLIPModel'], model_type='clip', projection_dim=768, text_config=dict(
            architectures=None, attention_dropout=0.0, bos_token_id=0, eos_token_id=2,
            hidden_act='quick_gelu', hidden_size=768, intermediate_size=3072, layer_norm_eps=1e-5,
            max_position_embeddings=77, model_type='clip_text_model', num_attention_heads=12,
            num_hidden_layers=12, vocab_size=49408), vision_config=dict(
                hidden_size=1024, num_attention_heads=16)), (),
        CLIP_L),
}


@pytest.mark.parametrize('folder', FOLDERS)
def test_published_configs_are_read(folder):
  config, tensors, section = FOLDERS[folder]
  family = families.family_of(config)
  found = registry.section(**family.read_config(config, tensors, folder))
  assert found == registry.section(**section)
