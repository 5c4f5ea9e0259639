"""Dense prediction from one or two views: stereo, optical flow, monocular depth (CroCo v2, section 3.4, and CroCo, section 4.3)."""
