"""Selectors: algorithms that turn documents into a column of float32 scores.

::

    base            the protocols: Scorer, SetSelector, MeanSelector; Requirements on the engine
    algorithm       bases of the built-in ones: BuiltInScorer, ClassifierScorer, CentredScorer,
                    BuiltInSetSelector
    adapter         completes plug-ins that have a part of a protocol
    functions       a plain function as a scorer or reweighter; imports of modules beside a recipe
    misspelt        members of a user's class that nearly have the name of one that it lacks
    influence       the words of a document that weigh most in a score
    parameters      declared parameters: validation, identity, documentation
    plain           base class of a scorer of one's own
    registry        names of recipes to objects; a file of this folder is found by its class's name
    targets         target files: examples as JSON lines, rendered to texts

    scorers, document by document:
    betr            nearest to any example of the target (Mizrahi et al. 2025, BETR)
    ccnet           perplexity under an n-gram model of a reference (Wenzek et al. 2020, CCNet)
    dclm            p(high quality) by a classifier (Li et al. 2024, DataComp-LM)
    deita           grades by a language model's probabilities (Liu et al. 2024, DEITA)
    document_loss   losses of an earlier run of your own (Marion et al. 2023; Ankner et al. 2024)
    dsir            importance weights of hashed n-grams (Xie et al. 2023, DSIR)
    fasttext        a ready fastText classifier (Joulin et al. 2017)
    fineweb_edu     grades by a linear head on embeddings (Penedo et al. 2024, FineWeb-Edu)
    got_d           gradient of the transport to the target (Kang et al. 2024, GOT-D)
    perplexity      bands of a small language model's perplexity (Ankner et al. 2024)
    preselect       documents whose losses rank models (Shum et al. 2025, PreSelect)

    set selectors, partition by partition:
    crisp           clusters by the target's examples in them (Grangier et al. 2024, CRISP)
    d4              no near copies, the least typical first (Tirumala et al. 2023, D4)
    gist            the best that are not near each other (Fahrbach et al. 2024, GIST)
    ingenious       facility location (Renduchintala et al. 2023, INGENIOUS)
    kmq             clusters share the budget, quality is drawn (Yu et al. 2024, kMQ)
    semdedup        no two documents of nearly the same meaning (Abbas et al. 2023, SemDeDup)

    controls:
    mean_of         mean of another column by source or by length

    shared by several algorithms:
    bands           which band of perplexity a budget takes
    near_copies     near copies within clusters of documents, as SemDeDup and D4 exclude them
    losses          losses of documents under causal language models
    predictive_strength  pairs of models that losses put in order, and PreSelect's training set
    kernels/        compiled loops: fastText, n-grams, WordPiece, k-means, rankings, similarities,
                    optimal transport
    encoders/       texts to vectors: sentence-transformers, hidden states, static distillation
    classifiers/    fastText classifiers: reading, training, shrunk log odds, BatchScorer

    other plug points:
    rewriting/      documents to prompts and answers to documents (REWIRE, WRAP, ProX)
    reweighting/    losses of a training batch to weights (Sow et al. 2025; UDS)

A selector uses no other selector and no part of the engine; what it needs of the engine is its
:class:`~penstock.selectors.base.Requirements`. ``document_loss`` alone opens an artefact: the run
that its parameter names. To add a selector, add one file: a class on a base of
``algorithm``, with ``name``, ``summary``, ``paper``, ``version``, its parameters as fields
(:class:`~penstock.selectors.parameters.Algorithm`) and the methods of its protocol. The tests of
``tests/selectors/test_properties.py`` then run it with its defaults; one with required parameters
needs a ``Case`` there.
"""
