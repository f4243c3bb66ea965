"""Visual reference prompts on SAM2 (VRP-SAM, CVPR 2024): trained on labelled classes, used on new ones.

references + target -> prior -> augmented features -> prompts -> SAM2's mask decoder -> class maps -> proposal scores

====================================================  ================================================================
VRP-SAM                                               function
====================================================  ================================================================
Sec. 3.2, pseudo-mask (PFENet's prior)                :func:`.prior.prior`, :func:`.prior.normalise_prior`
Sec. 3.2, feature augmenter of the reference          :meth:`.model.VisualReferencePrompt.encode_support`
Sec. 3.2, feature augmenter of the target             :meth:`.model.VisualReferencePrompt.prompt` (first half)
Sec. 3.3, prompt generator, attention to reference    :meth:`.model.VisualReferencePrompt.encode_support`
Sec. 3.3, prompt generator, attention to target       :meth:`.model.VisualReferencePrompt.prompt` (second half)
Sec. 3.3, mask decoder                                :meth:`nts.segmenter.Segmenter.decode`
Sec. 3.4, loss                                        :func:`.training.mask_loss`
annotation kinds, on the patch grid                   :func:`nts.references.annotation_weights`
published choices                                     :func:`.model.paper`, :data:`.training.PAPER`
====================================================  ================================================================

Scores of proposals (:mod:`.scoring`) are not part of the paper: its masks have no instances.
"""
