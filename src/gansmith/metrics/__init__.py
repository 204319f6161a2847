"""Numbers about a trained generator: pure functions of sets of vectors (N, d), tensors in, plain numbers out.

They compute in float64, which no setting of torch (TF32, bfloat16, autocast) rounds, in blocks: a few
hundred MB, however many vectors there are.
"""
