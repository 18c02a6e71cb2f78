"""Med3DInsight: can a 3D encoder learn from 2D models, without labels? (docs/method.md, Med3DInsight)

`triplets` pairs volumes with frozen vectors of their slices, `pretrain` aligns a 3D backbone with them through `psat`;
`segmentation` and `classification` fine-tune what it gives. Nothing heavy is imported here.
"""
