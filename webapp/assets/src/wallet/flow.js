// Runs what a button does: connects the wallet to the right chain first, and puts every failure in words.
import { connectChain, Stop, translate } from "./chain.js";
import { OPERATIONS } from "./operations.js";
import { session } from "./session.js";

// Returns the hash of the transaction that was sent; throws an error whose `words` say what went wrong.
export async function run(data, say) {
  try {
    const { wallet, account } = session();
    if (!account) throw new Stop("Connect a wallet first.");
    const client = await connectChain(wallet.provider, account, say);
    return await OPERATIONS[data.action](client, data, say);
  } catch (error) {
    throw await translate(error);
  }
}
