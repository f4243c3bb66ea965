"""The visual reference prompt (VRP-SAM, CVPR 2024) on SAM2: trained on a user's labelled classes, used on new ones.

references + target -> prior -> augmented features -> prompts -> SAM2's mask decoder -> class map -> scores of
proposals, which are matched and merged in the same way as those of the prototypes.
"""
