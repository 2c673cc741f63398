"""One module per engine, the contract they fulfil (:mod:`.base`) and the choice among them (:mod:`.select`)."""
