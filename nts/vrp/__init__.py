"""Visual reference prompts on SAM2 (VRP-SAM, CVPR 2024): trained on labelled classes, used on new ones.

references + target -> prior -> augmented features -> prompts -> SAM2's mask decoder -> class maps -> proposal scores

Each function names its section of the paper. Scores of proposals are not part of it: its masks have no instances.
"""
