"""Every key there is, with the defaults of the paper's ImageNet recipe where it has one.

A config file starts from `get_config()` and assigns; flags change single values:
`--config.optim.weight_decay=1e-4`. An epoch is one pass over the labelled images. Batch sizes are
global: summed over all devices. `None` stands for "the network's own number". The range of each
number and the choices of each word stand in `ns_jax/config/ranges.py`.
"""

from ml_collections import config_dict


def get_config(arg: str = "") -> config_dict.ConfigDict:
    if arg:
        raise ValueError(f"configs/base.py takes no argument, got {arg!r}")
    optional = config_dict.placeholder
    config = config_dict.ConfigDict()
    config.seed = 0  # of weights, data order and noise

    config.model = model = config_dict.ConfigDict()
    model.name = "efficientnet-b0"  # a name of ns_jax/models/efficientnet.py
    model.small_images = False  # True: stages 2 and 3 keep their size, as on SVHN at 32 pixels
    # Of convolutions and of BatchNorm, which no weights tell: None: those of train.init, else
    # TensorFlow's, "same" and 1e-3. timm's own networks have PyTorch's, "symmetric" and 1e-5.
    model.padding = optional(str)
    model.bn_epsilon = optional(float)
    model.drop_rate = optional(float)  # of dropout before the classifier; None: the network's
    model.path_drop_rate = 0.2  # stochastic depth at the last block, growing linearly from 0
    model.bn_momentum = 0.99  # share of the old value in the moving averages
    # Parts of the batch that BatchNorm normalises apart from one another. None: the official rule,
    # a part for each of up to 8 devices, 8 parts beyond 64 devices.
    model.stat_groups = optional(int)
    model.dtype = "float32"  # of activations: float32 or bfloat16; weights are always float32
    model.scan_unroll = 1  # equal blocks of a stage compiled side by side; 0: all of them
    # What the forward pass keeps for the backward pass, which computes the rest again: "none": all
    # is kept; "convs": outputs of convolutions; "depthwise": of depthwise ones; "full": inputs of
    # blocks alone. Or seven of these with commas between, one for each stage. docs/plan.md.
    model.remat = "none"

    config.mesh = mesh = config_dict.ConfigDict()
    # That train; None: all of them; of a single process's CPU one, which uses all cores.
    mesh.devices = optional(int)
    mesh.fsdp = 1  # devices that share one copy of the weights; the rest of them are data-parallel
    mesh.shard_above = 16384  # a layer's parameters of fewer elements than this are kept whole

    config.data = data = config_dict.ConfigDict()
    # Sources: digits:train|unlabelled|test, folder:DIR, tfds:NAME:SPLIT, array_record:GLOB,
    # parquet:GLOB, wds:GLOB, idx:DIR:train|test, images:GLOB; few:SOURCE, rest:SOURCE; several
    # joined with +. docs/data.md has all of it.
    data.labelled = ""  # to train on
    data.unlabelled = ""  # to pseudo-label
    data.test = ""  # to evaluate on; "": no evaluation
    data.holdout = ""  # labelled, neither trained nor tested on: the teacher is calibrated on it
    # Test and robustness images: what resembles one of them in the pool is a leak. docs/leaks.md
    data.guard = ""
    # What holds the labels: a column of labels.csv or Parquet, a feature of TFDS or ArrayRecord.
    data.label_column = "label"
    # The images that keep their label, of the digits and of few:SOURCE and rest:SOURCE: so many of
    # each class, or of the latter two such a share of each class, drawn by the seed.
    data.labels_per_class = 5
    data.labels_share = optional(float)
    data.split_seed = 0
    data.rest_limit = optional(int)  # images of rest:SOURCE, drawn by split_seed; None: all
    data.image_size = optional(int)  # pixels; None: the network's resolution
    # Evaluation's centre crop: "padded" S/(S+32) of the short side, "none", or a share as "0.875".
    data.crop = "padded"
    # "bicubic" and "bilinear": OpenCV's; "bicubic_antialias": Pillow's, for photographs much larger
    # than the network's resolution; "bicubic_tf": TensorFlow 1's, the official code's to the pixel.
    data.interpolation = "bicubic"  # in training and in evaluation
    # "crop" at random with a new aspect; "pad" by an eighth and crop back; "evaluation": as is
    data.train_view = "crop"
    data.crop_sampler = "official"  # height uniform; "area": area uniform, as most other code
    data.flip = True  # mirror half of the images; wrong for digits and text
    data.mean = (0.485, 0.456, 0.406)  # of each channel, on the scale 0..1
    data.std = (0.229, 0.224, 0.225)  # the same of the deviation
    data.max_pixels = 100_000_000  # of an image; a larger one counts as unreadable
    data.max_bad_fraction = 0.01  # of a source that may be unreadable before it is an error
    # Processes that decode and augment; None: all cores but one, or 0 where there are four or less.
    data.workers = optional(int)
    # Threads that do it without workers; None: two, if there are two cores and images take long.
    data.read_threads = optional(int)
    data.prefetch = 8  # batches made ahead of the device
    # Shards of a bucket are read from copies on a disk of this host, which its processes share.
    data.cache = ""  # a directory to keep them in; "": below TMPDIR, until the program ends
    data.cache_gb = 16.0  # of copies, at most (2^30 bytes); those used longest ago make room
    data.shuffle_shards = 16  # of a bucket, that a training reads and mixes at once

    config.randaugment = randaugment = config_dict.ConfigDict()
    randaugment.num_layers = 2  # operators applied to an image, N; 0 switches RandAugment off
    randaugment.magnitude = 27.0  # M, in tenths; above 10 goes beyond the usual scale
    randaugment.translate_pixels = 100.0  # shift at M = 10
    randaugment.cutout_pixels = 40.0  # half the side of the box at M = 10
    randaugment.overflow = "official"  # M > 10: "official" wraps as its uint8 did, or "saturate"
    randaugment.final_cutout = 0  # half the side of a box cut out of every image, pixels

    config.train = train = config_dict.ConfigDict()
    train.batch_size = 2048  # labelled images a step
    train.unlabelled_ratio = 0.0  # unlabelled images a step for each labelled one; 0: a teacher
    # Probability with which a labelled image of the batch counts. batch_size * sample_prob is the
    # labelled batch of loss, learning rate and epochs: less than an image a core (paper's 28:1).
    train.sample_prob = 1.0
    # Parts of a batch that go through the network one after the other: less memory. BatchNorm then
    # sees a part at a time, and its averages move once for each.
    train.accumulate = 1
    train.epochs = 350.0  # passes over the labelled images
    train.selection = ""  # directory of the selection to draw the unlabelled images from
    # Checkpoint of a teacher that labels in the step, instead of stored labels: of the selection's
    # images, or without one of all. "previous": of selftrain, each iteration's own teacher; then
    # nothing is labelled before, and the images are those of selftrain.filter, or all.
    train.teacher = ""
    train.teacher_noise = False  # with dropout and stochastic depth, on the student's noised images
    # On unlabelled images: "all"; "model": no RandAugment; "none": no dropout and no stochastic
    # depth, whatever data.train_view is, no crop or mirroring either. Labelled images keep it all.
    train.unlabelled_noise = "all"
    # Leaves the stem (0) and that many stages as train.init has them, statistics too; None: trains
    # everything.
    train.frozen_stages = optional(int)
    # Weights to start from: a workdir, a checkpoint, FILE.safetensors, a TF1 checkpoint or
    # hf:OWNER/NAME; "": from scratch. Of selftrain the teacher's alone: a student has
    # selftrain.student_init, or an init of its own in selftrain.overrides.
    train.init = ""
    train.init_model = ""  # of a file that does not say what it holds, as convert.model
    # True: start the classifier afresh, for other classes than those of train.init. A fine-tune
    # keeps it, and so does a student that starts from its teacher.
    train.new_head = False
    train.log_every_steps = 100
    # The averaged weights are scored on data.holdout, or without one on data.test: every so many
    # epochs and at the end. None: about 20 times, less if that took over 5 % of the time; 0: no.
    train.evaluate_every_epochs = optional(float)
    train.tensorboard = True  # events beside metrics.jsonl
    train.wandb = ""  # project of Weights & Biases that metrics go to as well; "": none
    train.profile_steps = 0  # steps whose profile JAX writes to the workdir's `profile`; 0: none
    # Checkpoints are written while the training goes on: every so many steps, and when so many
    # minutes have passed since the last one, which is looked at when metrics are logged; 0: never.
    train.save_every_steps = 1000
    train.save_every_minutes = 10.0
    train.keep_checkpoints = 2  # newest ones kept; one that is damaged is replaced by the next
    train.keep_every_steps = optional(int)  # kept for good: those of steps that it divides
    # What follows a loss or gradient that is not finite: "skip" leaves that step out; "back" goes
    # back to the last checkpoint and on with other noise and another order. More of them than the
    # limit, in all, end the run.
    train.nonfinite = "skip"
    train.nonfinite_limit = 10

    config.optim = optim = config_dict.ConfigDict()
    optim.learning_rate_per_256 = 0.016  # peak, for every 256 labelled images a step
    optim.warmup_epochs = 5.0  # linear from 0
    optim.start_epoch = 0.0  # of the schedule; a fine-tune begins near the end of it
    optim.decay_epochs = 2.4  # the learning rate is a staircase: times decay_rate every so often
    optim.decay_rate = 0.97  # a step of the staircase
    optim.rms_decay = 0.9  # of RMSProp's mean square of the gradient
    optim.momentum = 0.9  # of RMSProp's updates
    optim.epsilon = 1e-3  # inside RMSProp's square root
    optim.weight_decay = 1e-5  # of the loss wd/2 |w|^2, over all parameters but BatchNorm's
    optim.ema_decay = 0.9999  # of weights and statistics; ramps up as (1 + t) / (10 + t)

    config.loss = loss = config_dict.ConfigDict()
    loss.label_smoothing = 0.1  # of labels and of hard pseudo-labels
    loss.normalise = "labelled"  # divide by the labelled batch (official code) or "all" (the paper)
    loss.pseudo_labels = "soft"  # "soft": the teacher's distribution; "hard": its best class
    loss.temperature = 1.0  # of soft pseudo-labels: below 1 sharpens them

    # After an iteration's training: more resolution, labelled images alone, un-augmented, shallow
    # stages frozen, the rates of the schedule's tail. selftrain does it, or role=finetune.
    config.finetune = finetune = config_dict.ConfigDict()
    # The paper: 1.5; 0: none. More than train.epochs begin at the start of the schedule.
    finetune.epochs = 0.0
    finetune.image_size = optional(int)  # None: as before
    finetune.batch_size = optional(int)  # None: as before
    finetune.frozen_stages = 3  # not given in the paper
    finetune.remat = optional(str)  # None: as before

    config.label = label = config_dict.ConfigDict()
    # The teacher: a workdir, a checkpoint or FILE.onnx; or several with commas between: their mean.
    # Paths that hold commas: as a list, '["runs/a, b", "runs/c"]'.
    label.checkpoint = ""
    # Predictions made elsewhere, as a teacher or averaged with others: FILE.parquet, .csv, .npz or
    # .npy, a pattern for many files of one teacher, several teachers with commas between.
    # docs/teachers.md
    label.predictions = ""
    label.holdout_predictions = ""  # of data.holdout, where label.predictions has no rows of it
    # In the mean, of checkpoints, then of exported files, then of predictions: as (2.0, 1.0).
    # None: all alike.
    label.weights = optional(tuple)
    # What predictions, or an ONNX file of somebody else, give: "probabilities" or "logits"; "": as
    # they look.
    label.scores = ""
    label.class_names = ""  # file with a class name a line, for those that do not name them
    label.class_map = ""  # CSV, theirs,ours a line: classes that are called otherwise there
    label.subset = ""  # directory of a selection: label only its images, each once
    label.temperature = 1.0  # of what is stored: above 1 is less sure; data.holdout has it fitted
    label.flip = False  # the mean over an image and its mirror image
    label.batch_size = 256  # of all processes of a run; of a worker that is started apart, its own
    label.images_per_shard = 16384  # rows of a file of labels, which one worker makes
    # Of n workers that are started apart, on any hosts: 0/n for the first to (n-1)/n for the last.
    # It says where one begins. "": as the processes of one run.
    label.worker = ""
    label.lease_seconds = 60.0  # without a sign of life after which another takes a shard over
    label.classes_kept = optional(int)  # most probable classes stored; None: 16, or all if fewer
    # What runs checkpoints: "xla"; on a CPU also "onnxruntime" or "openvino", which may be faster
    # and round otherwise; "auto": what is found in labels/, else the fastest that is installed.
    label.engine = "xla"
    # "bfloat16": of "openvino", on processors that have it, with 3 digits instead of 7.
    label.engine_precision = "float32"

    # How an ONNX file of somebody else, as a teacher or evaluated, is shown images. None: as a
    # preprocessor_config.json or config.json beside it says, else as config.data has it.
    config.foreign = foreign = config_dict.ConfigDict()
    foreign.image_size = optional(int)  # pixels, where the file leaves it open
    foreign.crop = optional(str)  # as data.crop
    foreign.mean = optional(tuple)  # of each channel, on the scale 0..1
    foreign.std = optional(tuple)
    foreign.interpolation = optional(str)  # as data.interpolation

    config.select = select = config_dict.ConfigDict()
    select.labels = ""  # directory of label shards
    select.threshold = 0.3  # an image counts if its confidence is above this
    select.max_confidence = optional(float)  # and if it is not above this; None: no limit
    select.per_class = 130_000  # rows of each class, by copies if scarce; 0: as the largest class
    select.balance = "copies"  # of the images of scarce classes; "none": each image once
    select.max_copies = optional(int)  # times that an image is taken, at most; None: no limit
    select.order = "confidence"  # a class's best images are taken; "random": drawn from `seed`
    select.fraction = 1.0  # of the images that count at all, drawn from `seed`; smaller in larger
    select.seed = 0  # of `fraction` and of a random `order`
    select.exclude = ""  # text or CSV file whose first column lists indices to leave out; "": none
    # corrections.csv of a report: labels found wrong are left out, named ones are taken. "": none
    select.corrections = ""
    # A leak: an image whose perceptual hash differs from one of data.guard's in so few of 64 bits.
    # Of tiny images 0.
    select.guard_distance = 6
    select.drop_leaks = False  # leave them out; they are listed in leaks.csv either way
    select.memory_gb = 4.0  # that may be used beside what the program itself takes

    config.evaluate = evaluate = config_dict.ConfigDict()
    # A workdir, a checkpoint, or an exported FILE.onnx, FILE.stablehlo or FILE.safetensors.
    evaluate.checkpoint = ""
    evaluate.against = ""  # another of these: how often both have the same best class; "": none
    evaluate.batch_size = 256  # images at a time, of all devices
    # "all" of the network's classes compete; "present": those alone that the source has images of,
    # as ImageNet-A and -R are scored. Images of classes that the network lacks are then left out.
    evaluate.classes = "all"

    config.predict = predict = config_dict.ConfigDict()
    predict.checkpoint = ""  # a workdir, a checkpoint, FILE.safetensors or hf:OWNER/NAME
    predict.source = ""  # whose images; "": data.unlabelled, or else data.test
    # FILE.csv, FILE.parquet or FILE.jsonl; "": predictions.csv in the workdir
    predict.target = ""
    predict.top = 5  # most probable classes of each image
    predict.images_per_part = 16384  # that are kept together; label.worker and so on hold as well

    config.robustness = robustness = config_dict.ConfigDict()
    robustness.checkpoint = ""  # of the network that is measured: a workdir or a checkpoint
    # A checkpoint of the same classes beside it, as a teacher beside its student: differences, and
    # what corruption errors and flips of one's own images are divided by. "": none.
    robustness.against = ""
    # Several with commas between. ImageNet's test sets: a, r, v2, sketch, real, c, p; of data.test:
    # own (corruptions and sequences of frames), fgsm, pgd. docs/robustness.md
    robustness.suites = "own,fgsm"
    # The set of the suite of this name, a source as in `data`.
    robustness.a = ""
    robustness.r = ""
    robustness.v2 = ""
    robustness.sketch = ""
    robustness.real = ""  # ImageNet's validation images, for the suite `real`
    robustness.real_labels = ""  # real.json, the classes that each of them shows
    # The directory of ImageNet-C's folders, or a source with {corruption} and {severity} in it.
    robustness.c = ""
    robustness.p = ""  # the directory of ImageNet-P's folders
    robustness.clean = ""  # ImageNet's validation images: for relative mCE
    robustness.corruptions = ""  # with commas between; "": the benchmark's fifteen
    robustness.perturbations = ""  # of sequences; "": the benchmark's ten; "none": no sequences
    # Whose severities own corruptions have: "32", "64", "224" or "299" pixels; "": the nearest.
    robustness.variant = ""
    robustness.frost = ""  # directory of the benchmark's photographs; "": a stand-in
    robustness.size = optional(int)  # pixels of every view; None: the network's
    robustness.crop = ""  # of every view; "": the network's, and none of sets that come cropped
    robustness.max_images = optional(int)  # of data.test, evenly spread; None: all
    robustness.fgsm_epsilons = (0.0, 2.0, 4.0, 8.0, 16.0)  # levels of 255
    robustness.pgd_epsilons = (16.0,)  # levels of 255
    robustness.pgd_steps = 10  # gradients that an attack follows
    robustness.pgd_step_size = optional(float)  # levels; None: 2.5 epsilon / steps
    robustness.pgd_restarts = 0  # random starts, of which the worst counts; 0: from the image
    robustness.attack_label = "true"  # the class to be led away from; or the "predicted" one
    robustness.seed = 0  # of corruptions, sequences and random starts
    robustness.batch_size = 256  # images at a time, of all devices

    config.preemption = preemption = config_dict.ConfigDict()
    # Seconds from SIGTERM to the end of the process, at most: a little less than the machine gives
    # (Google's spot machines, Kubernetes and Slurm: 30).
    preemption.grace_seconds = 25.0

    config.doctor = doctor = config_dict.ConfigDict()
    doctor.sample = 500  # images of each source that are decoded, and looked for in the others
    doctor.seconds = 10.0  # of measuring each view's speed, at most
    doctor.wait_seconds = 50.0  # for processes that do not come, or get stuck, until it names them

    config.plan = plan = config_dict.ConfigDict()
    plan.topology = "v3-2048"  # v2 to v6e: cores, as v3-2048, or chips on each side, as v3:32x32
    # What is planned for; the sources need not be there.
    plan.num_classes = 1000
    plan.num_labelled = 1_281_167
    plan.num_unlabelled = 300_000_000  # to label
    plan.labelling = True  # plan the labelling pass as well
    plan.price = 0.0  # of an hour of one chip, in any currency

    config.convert = convert = config_dict.ConfigDict()
    convert.source = ""  # workdir, checkpoint, FILE.safetensors, TF1 checkpoint, or hf:OWNER/NAME
    # FILE.safetensors (timm), FILE.stablehlo, FILE.onnx, or a directory; "": the workdir
    convert.target = ""
    # Of a file that does not say: tf_efficientnet_b3.ns_jft_in1k, or tf_efficientnet_b3 (ported
    # from TensorFlow) or efficientnet_b3 (timm's own)
    convert.model = ""
    convert.class_names = ""  # file with a class name a line; "": the source's, or ImageNet's
    # Images that an ONNX file takes: "uint8_nhwc", as decoded, or "float_nchw", normalised.
    convert.onnx_input = "uint8_nhwc"
    # "int8": an ONNX file of 8-bit weights and activations, whose ranges are those of images of
    # data.unlabelled (or data.labelled), and whose loss is measured on data.holdout (or data.test).
    convert.quantise = ""
    convert.calibration_images = 200  # that give the ranges

    config.selftrain = selftrain = config_dict.ConfigDict()
    selftrain.iterations = 3  # students, one after the other; 0: the teacher alone
    # Checkpoint, or file of predictions, to use as iteration 0 instead of training one.
    selftrain.teacher = ""
    # Checkpoint of a network, a small one will do, that labels the whole pool once. All teachers
    # then label only the images selected so, copies kept, as in the paper. "": each labels it all.
    selftrain.filter = ""
    # "scratch"; "teacher": from its teacher's weights; "init": from train.init, as the teacher.
    # Both of the same network only, but for an init of its own in selftrain.overrides.
    selftrain.student_init = "scratch"
    # Suites of data.test that teacher and students are measured with, as ("own", "fgsm").
    selftrain.robustness = ()
    # What iteration k changes: a tree like this one, holding only the keys that differ. An
    # iteration without an entry takes the nearest entry before it.
    selftrain.overrides = config_dict.ConfigDict()
    return config
