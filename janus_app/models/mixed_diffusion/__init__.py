"""One transformer for words and for noised pictures: Transfusion, LMFusion and LLaVAFusion."""
