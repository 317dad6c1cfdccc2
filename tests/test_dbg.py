import pytest, torch
from lightning.pytorch import Callback
from transfer.config import Freezing
class SaveAt(Callback):
    def __init__(self, path, step): self.path, self.step = path, step
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and batch_idx + 1 < trainer.num_training_batches:
            trainer.save_checkpoint(self.path)
class W(Callback):
    def __init__(self): self.s=[]
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.s.append((trainer.current_epoch,batch_idx,trainer.fit_loop.total_batch_idx,batch['index'].tolist(),float(outputs['loss']), trainer.optimizers[0].param_groups[0]['lr'],pl_module.training, sum(m.training for m in pl_module.modules())))
@pytest.mark.parametrize("family",["bert","lstm"])
@pytest.mark.parametrize("p",["none","gradual"])
def test_x(tiny_model, fit, tmp_path,p,family):
    a,b=W(),W(); path=tmp_path/'x.ckpt'
    m=tiny_model(family); fit(m,Freezing(p),max_epochs=3,callbacks=[a,SaveAt(path,4)])
    n=tiny_model(family,seed=1); fit(n,Freezing(p),max_epochs=3,callbacks=[b],ckpt_path=path)
    for x in a.s: print(x)
    print()
    for x in b.s: print(x)
    d={k:float((t-n.state_dict()[k]).abs().max()) for k,t in m.state_dict().items()}
    print({k:v for k,v in d.items() if v})
