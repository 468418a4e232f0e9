"""What would be lost without a word is refused: at construction, or at the first step.

hooks         every member of the Trainer that checkpoints use
overrides     every method that a subclass may override, and which ones count
moved_models  callbacks of libraries that move a model beside the trained one
structure     what the model is made of, at the first step and at each save
optimizers    one optimizer moves the model, and its state can be read back: known at its first step
sharding      FSDP2: what is supported, also where accelerate passes over it
versions      what differs between versions of the libraries
system_randomness  random bytes of the operating system in a training step
"""
