"""What a checkpoint holds of model, optimizer and schedule, and the way back into the live objects.

model_files         which tensors belong in which weights file, as the library would write it
snapshot            tensors copied from memory
extra_state         what training moves and the weights files do not hold
weights             a checkpoint into the model, and the best model
into_model          every tensor under its name
optimizer_names     which moments belong to which parameter
moment_shapes       whether moments have the shapes that the live optimizer gives them
optimizer_state     a checkpoint into optimizer, schedule and gradient scaler
stateful            objects with a state that the program passes by name
trainer_attributes  sums and counters that a subclass of the Trainer keeps
trained_parameters  which parameters a callback has opened or frozen
held_attributes     the same of modules, losses, metrics, helpers and callbacks
attribute_watch     which of them training has changed
attribute_marks     one of them before training
held_objects        the objects that hold them, and how
held_roots          where these are looked for
quiet_holders       those of them in which nothing is replaced, looked at in one go
plain_state         copies of their states, of plain values only
plain_containers    containers of Python and numpy as plain values, and back
plain_objects       objects that stand for one value, likewise
unsaved             such objects that it does not pass, and that training changes
differences         where two states differ
tensors             their bytes: copied, compared, sampled
rates               schedules and options of the optimizer's groups, copied at a boundary
"""
