/* The methods, for the registry and for code that asks which one an adapter has. */
#ifndef TN_PEFT_METHODS_H
#define TN_PEFT_METHODS_H

#include "peft/method.h"

extern const tn_peft_method tn_adalora;
extern const tn_peft_method tn_ia3;
extern const tn_peft_method tn_loha;
extern const tn_peft_method tn_lokr;
extern const tn_peft_method tn_vera;

#endif
